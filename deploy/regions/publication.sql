-- In the database of the home region, which alone writes identity. PostgreSQL there runs with wal_level=logical.
CREATE PUBLICATION headrace_identity FOR TABLE
    account, "user", membership, refresh_token, api_key, provider_credential, account_preferences;
