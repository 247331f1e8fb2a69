#!/usr/bin/env bash
# Brings a redis-server or valkey-server out of its official image, as a program that the tests can kill and freeze:
#   .ci/redis-server.sh redis:8.6 /tmp/redis
# Its libraries come along, so that it runs whatever this machine has. Prints the path for HEADRACE_TEST_REDIS_SERVER.
set -euo pipefail
image=$1 folder=$2
mkdir -p "$folder"
# shellcheck disable=SC2016 # the container's shell expands these
docker run --rm --entrypoint sh "$image" -c '
    program=$(command -v redis-server || command -v valkey-server)
    tar -chf - "$program" $(ldd "$program" | grep -o "/[^ ]*")' 2>/dev/null | tar -xf - -C "$folder"
program=$(find "$folder" -type f \( -name redis-server -o -name valkey-server \) | head -n 1)
loader=$(find "$folder" -type f -name 'ld-*.so.*' | head -n 1)
libraries=$(find "$folder" -type f -name '*.so*' -exec dirname {} + | sort -u | paste -sd :)
cat > "$folder/redis-server" <<END
#!/bin/sh
exec "$loader" --library-path "$libraries" "$program" "\$@"
END
chmod +x "$folder/redis-server"
"$folder/redis-server" --version >&2
echo "$folder/redis-server"
