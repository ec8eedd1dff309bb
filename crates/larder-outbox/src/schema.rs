//! The table, for each database.

/// The table, for `SQLite`: run it once, as part of your migrations or at the start. It does nothing if the table is
/// there. A trigger that writes a value of another type fails, and with it the statement that has fired it.
// CHECK: a column of SQLite takes values of any type, and relays read other ones in part at best. STRICT would do the
// same from 3.37 on; rusqlite works with older versions.
// AUTOINCREMENT: without it SQLite gives the id of a deleted row to another one. A relay that has delivered the first
// and deletes by id would delete the second, which nobody has delivered.
pub const SQLITE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS larder_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace  TEXT    NOT NULL CHECK (typeof(namespace) = 'text'),
    kind       TEXT    NOT NULL CHECK (typeof(kind) = 'text'),
    name       TEXT    NOT NULL CHECK (typeof(name) = 'text'),
    written_ms INTEGER NOT NULL CHECK (typeof(written_ms) = 'integer')
);
CREATE INDEX IF NOT EXISTS larder_outbox_by_namespace ON larder_outbox (namespace, id);
";

/// The table, for `PostgreSQL`. It does nothing if the table is there.
pub const POSTGRES_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS larder_outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace  TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    written_ms BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS larder_outbox_by_namespace ON larder_outbox (namespace, id);
";

/// The table, for `MySQL` 8 and `MariaDB` 10.3 or later, with `InnoDB`. It does nothing if the table is there.
// The namespace is compared byte by byte: to the usual collations `shop` and `Shop` are the same, so one relay would
// take, and delete, the rows of the other.
pub const MYSQL_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS larder_outbox (
    id         BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    namespace  VARBINARY(256) NOT NULL,
    kind       VARCHAR(16)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    name       VARCHAR(1024)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    written_ms BIGINT         NOT NULL,
    KEY larder_outbox_by_namespace (namespace, id)
) ENGINE = InnoDB;
";
