#!/bin/sh
# Adds to .env what docker-compose.yml needs and it lacks: secrets of their own for this machine.
# What is there stays as it is. Without a provider's key in it, the scripted provider will answer.
set -eu
umask 077
cd "$(dirname "$0")/../.."

random() {
    head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'
}

has() {
    grep -Eqs "^$1=." .env
}

# A file that does not end its last line would have the first of ours run on in it.
if [ -s .env ] && [ -n "$(tail -c 1 .env)" ]; then
    echo >> .env
fi
for name in POSTGRES_PASSWORD REDIS_PASSWORD HEADRACE_KEY_PEPPER JWT_SECRET HEADRACE_ADMIN_TOKEN \
    GRAFANA_PASSWORD GRAFANA_DATABASE_PASSWORD; do
    has "$name" || echo "$name=$(random)" >> .env
done
if ! has COMPOSE_FILE && ! has '(OPENAI|ANTHROPIC|DEEPSEEK|XAI|OPENROUTER|LITELLM|NVIDIA|NVIDIA_NIM|PERPLEXITY|HUGGINGFACE|HF|VLLM)_(API_KEY|TOKEN)'; then
    echo "COMPOSE_FILE=docker-compose.yml:deploy/compose/demo.yml" >> .env
fi
