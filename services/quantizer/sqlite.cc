#include "services/quantizer/sqlite.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// A backup or a shell may hold the database for a moment.
constexpr int kBusyTimeoutMs = 5000;

absl::Status SqliteStatus(sqlite3* database, int code) {
  const std::string message = absl::StrCat("job store: ", sqlite3_errmsg(database));
  const int system_error = sqlite3_system_errno(database);
  if (code == SQLITE_IOERR_WRITE && (system_error == EFBIG || system_error == EDQUOT)) {
    return absl::ResourceExhaustedError(message);
  }
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace

Statement& Statement::Bind(int parameter, int64_t value) {
  bind_error_ |= sqlite3_bind_int64(statement_.get(), parameter, value);
  return *this;
}

Statement& Statement::Bind(int parameter, absl::string_view text) {
  bind_error_ |= sqlite3_bind_text64(statement_.get(), parameter, text.data(), text.size(),
                                     SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::BindBlob(int parameter, absl::string_view bytes) {
  bind_error_ |= sqlite3_bind_blob64(statement_.get(), parameter, bytes.data(), bytes.size(),
                                     SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::BindNull(int parameter) {
  bind_error_ |= sqlite3_bind_null(statement_.get(), parameter);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (bind_error_ != SQLITE_OK) return absl::InternalError("job store: cannot bind a parameter");
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return SqliteStatus(sqlite3_db_handle(statement_.get()), code);
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }

std::string Statement::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), size);
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

absl::StatusOr<Database> Database::Open(const std::filesystem::path& path) {
  sqlite3* handle = nullptr;
  // NOMUTEX: callers serialize.
  const int code = sqlite3_open_v2(
      path.c_str(), &handle,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
      nullptr);
  Database database(handle);
  if (handle == nullptr) return absl::ResourceExhaustedError("job store: out of memory");
  if (code != SQLITE_OK) return Annotate(SqliteStatus(handle, code), path.string());
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  QL_RETURN_IF_ERROR(
      Annotate(database.Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                                "PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864"),
               path.string()));
  return database;
}

absl::StatusOr<Statement> Database::Prepare(absl::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()),
                                      &statement, nullptr);
  if (code != SQLITE_OK) return SqliteStatus(database_.get(), code);
  return Statement(statement);
}

absl::Status Database::Execute(const std::string& sql) {
  const int code = sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(database_.get(), code);
}

absl::StatusOr<std::unique_ptr<Transaction>> Transaction::Begin(Database& database) {
  QL_RETURN_IF_ERROR(database.Execute("BEGIN IMMEDIATE"));
  return std::unique_ptr<Transaction>(new Transaction(database));
}

absl::Status Transaction::Commit() {
  QL_RETURN_IF_ERROR(database_.Execute("COMMIT"));
  open_ = false;
  return absl::OkStatus();
}

Transaction::~Transaction() {
  // SQLite may have rolled back by itself after an error such as a full disk; then this fails.
  if (open_) (void)database_.Execute("ROLLBACK");
}

}  // namespace quantloom
