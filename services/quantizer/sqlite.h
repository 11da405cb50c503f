// SQLite with errors as absl::Status.
//
//   QL_ASSIGN_OR_RETURN(Statement select, database.Prepare("SELECT state FROM jobs WHERE name =
//   ?")); select.Bind(1, name); QL_ASSIGN_OR_RETURN(const bool found, select.Step()); if (found)
//   use(select.Int(0));
//
// A full disk is RESOURCE_EXHAUSTED, a damaged database DATA_LOSS, one that cannot be opened or
// written PERMISSION_DENIED, the rest INTERNAL. Thread-safety: none, one thread at a time.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// A prepared statement. Parameters count from 1, columns from 0.
class Statement {
 public:
  // Errors of binding appear in Step.
  Statement& Bind(int parameter, int64_t value);
  Statement& Bind(int parameter, absl::string_view text);
  Statement& BindBlob(int parameter, absl::string_view bytes);
  Statement& BindNull(int parameter);

  // Runs to the next row; false when there is none.
  absl::StatusOr<bool> Step();

  int64_t Int(int column) const;
  // Text or blob; empty for NULL.
  std::string Bytes(int column) const;
  bool IsNull(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}

  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bind_error_ = SQLITE_OK;
};

class Database {
 public:
  // Opens or creates the file, in WAL mode with synchronous=FULL: what a transaction committed
  // survives a power loss.
  static absl::StatusOr<Database> Open(const std::filesystem::path& path);

  absl::StatusOr<Statement> Prepare(absl::string_view sql);
  // Runs statements that give no rows and take no parameters.
  absl::Status Execute(const std::string& sql);
  // Rows changed by the last statement.
  int64_t Changes() const { return sqlite3_changes64(database_.get()); }
  int64_t LastInsertId() const { return sqlite3_last_insert_rowid(database_.get()); }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
  };
  explicit Database(sqlite3* database) : database_(database) {}

  std::unique_ptr<sqlite3, Close> database_;
};

// A write transaction, rolled back unless committed.
class Transaction {
 public:
  static absl::StatusOr<std::unique_ptr<Transaction>> Begin(Database& database);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  absl::Status Commit();

 private:
  explicit Transaction(Database& database) : database_(database) {}

  Database& database_;
  bool open_ = true;
};

}  // namespace quantloom
