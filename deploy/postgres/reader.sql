-- A role for dashboards. It reads the usage of accounts with the names that go with it, and what PostgreSQL shows to
-- every role: how tables, columns, roles and databases are called. No digest of a key, no job, no file and no
-- conversation is shown to it, and it changes no row of the broker's.
--
-- The settings below keep an honest dashboard from costing much; no role can be kept from changing its own. Whoever has
-- the password can change it, read for hours on as many connections as the limit allows, make large objects, and hold
-- locks that `headrace db upgrade` waits for. Keep it as you keep the broker's own.
--
-- Run it in the migrated database (PostgreSQL 14 or newer) as the role that owns database and tables; again, to change the
-- password:
--
--     PGOPTIONS="-c headrace.reader_password=..." psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/reader.sql
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headrace_reader') THEN
        CREATE ROLE headrace_reader;
    END IF;
    EXECUTE format('ALTER ROLE headrace_reader LOGIN PASSWORD %L', current_setting('headrace.reader_password'));
    -- Every role may make temporary tables by default. The owner of the database still may; the broker makes none.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

-- Grafana opens 5 (maxOpenConns), and lets go of each within 5 minutes (connMaxLifetime).
ALTER ROLE headrace_reader CONNECTION LIMIT 10;
ALTER ROLE headrace_reader SET default_transaction_read_only = on;
ALTER ROLE headrace_reader SET statement_timeout = '30s';
ALTER ROLE headrace_reader SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE headrace_reader SET idle_session_timeout = '10min';
GRANT SELECT ON usage TO headrace_reader;
GRANT SELECT (id, name) ON account, api_key TO headrace_reader;
