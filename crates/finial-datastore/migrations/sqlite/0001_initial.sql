-- One row: the revision last given out, and the revision up to which the change log was pruned.
CREATE TABLE revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    value    INTEGER NOT NULL,
    horizon  INTEGER NOT NULL
);
INSERT INTO revision (only_row, value, horizon) VALUES (1, 0, 0);

-- What changed: kind 1 is an entry by id, 2 an agent by SPIFFE ID, 3 a bundle by trust domain.
CREATE TABLE changes (
    revision INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    subject  TEXT    NOT NULL,
    PRIMARY KEY (revision, position)
) WITHOUT ROWID;

-- Sets are stored whole, as JSON, for reading; the tables below index them for filters.
CREATE TABLE entries (
    row_id                     INTEGER PRIMARY KEY AUTOINCREMENT,
    id                         TEXT    NOT NULL UNIQUE,
    spiffe_id                  TEXT    NOT NULL,
    parent_id                  TEXT    NOT NULL,
    fingerprint                BLOB    NOT NULL,
    selectors                  TEXT    NOT NULL,
    selector_count             INTEGER NOT NULL,
    federates_with             TEXT    NOT NULL,
    federation_count           INTEGER NOT NULL,
    dns_names                  TEXT    NOT NULL,
    x509_svid_ttl              INTEGER,
    jwt_svid_ttl               INTEGER,
    admin                      INTEGER NOT NULL,
    downstream                 INTEGER NOT NULL,
    store_svid                 INTEGER NOT NULL,
    expires_at                 INTEGER,
    hint                       TEXT    NOT NULL,
    revision_number            INTEGER NOT NULL,
    created_at                 INTEGER NOT NULL,
    updated_at                 INTEGER NOT NULL,
    disable_x509_svid_prefetch INTEGER NOT NULL,
    jwt_svid_include_jti       INTEGER NOT NULL
);
CREATE INDEX entries_by_spiffe_id ON entries (spiffe_id);
CREATE INDEX entries_by_parent_id ON entries (parent_id);
CREATE INDEX entries_by_fingerprint ON entries (fingerprint);
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX entries_by_hint ON entries (hint) WHERE hint <> '';
CREATE INDEX entries_downstream ON entries (row_id) WHERE downstream = 1;

CREATE TABLE entry_selectors (
    kind  TEXT    NOT NULL,
    value TEXT    NOT NULL,
    owner INTEGER NOT NULL,
    PRIMARY KEY (kind, value, owner)
) WITHOUT ROWID;

CREATE TABLE entry_federations (
    trust_domain TEXT    NOT NULL,
    owner        INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, owner)
) WITHOUT ROWID;

CREATE TABLE agents (
    row_id           INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT    NOT NULL UNIQUE,
    attestation_type TEXT    NOT NULL,
    serial           TEXT,
    expires_at       INTEGER NOT NULL,
    new_serial       TEXT,
    new_expires_at   INTEGER,
    can_reattest     INTEGER NOT NULL,
    selectors        TEXT    NOT NULL,
    selector_count   INTEGER NOT NULL,
    agent_version    TEXT    NOT NULL
);
CREATE INDEX agents_by_expiry ON agents (expires_at);

CREATE TABLE agent_selectors (
    kind  TEXT    NOT NULL,
    value TEXT    NOT NULL,
    owner INTEGER NOT NULL,
    PRIMARY KEY (kind, value, owner)
) WITHOUT ROWID;

CREATE TABLE bundles (
    row_id           INTEGER PRIMARY KEY AUTOINCREMENT,
    trust_domain     TEXT    NOT NULL UNIQUE,
    refresh_hint     INTEGER,
    sequence_number  INTEGER NOT NULL,
    x509_authorities TEXT    NOT NULL,
    jwt_authorities  TEXT    NOT NULL
);

-- Tokens are secrets; what is stored of one is enough to recognise it and useless to whoever reads the file.
CREATE TABLE join_tokens (
    token_hash BLOB    NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX join_tokens_by_expiry ON join_tokens (expires_at);

CREATE TABLE ca_journals (
    id                        INTEGER PRIMARY KEY AUTOINCREMENT,
    active_x509_authority_id  TEXT    NOT NULL,
    data                      BLOB    NOT NULL
);
CREATE INDEX ca_journals_by_authority ON ca_journals (active_x509_authority_id);
