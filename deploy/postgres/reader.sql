-- A role for dashboards: it reads the usage of accounts and the names that go with it, and writes nothing. No digest of
-- a key, no job, no file and no conversation is shown to it. Run it in the migrated database as the role that owns the
-- tables; again, to change the password:
--
--     PGOPTIONS="-c headrace.reader_password=..." psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/reader.sql
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headrace_reader') THEN
        CREATE ROLE headrace_reader;
    END IF;
    EXECUTE format('ALTER ROLE headrace_reader LOGIN PASSWORD %L', current_setting('headrace.reader_password'));
END
$$;

ALTER ROLE headrace_reader SET default_transaction_read_only = on;
ALTER ROLE headrace_reader SET statement_timeout = '30s';
GRANT SELECT ON usage TO headrace_reader;
GRANT SELECT (id, name) ON account, api_key TO headrace_reader;
