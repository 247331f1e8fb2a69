-- In the database of every other region, migrated and otherwise empty: first the rows there are, then each change.
-- One name a region. Write the address of the home region's database, and a user of it with REPLICATION.
CREATE SUBSCRIPTION headrace_identity_us
    CONNECTION 'host=127.0.0.1 port=5432 user=headrace dbname=headrace'
    PUBLICATION headrace_identity;
