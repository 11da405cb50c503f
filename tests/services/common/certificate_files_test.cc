#include "services/common/certificate_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/services/common/certificate_authority.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CertificateFilesTest : public ::testing::Test {
 protected:
  CertificateFilesTest() {
    Write("certificate.pem", server_.certificate);
    Write("key.pem", server_.key);
    Write("ca.pem", authority_.certificate());
    options_ = {Path("certificate.pem"), Path("key.pem"), Path("ca.pem")};
  }

  std::string Path(const std::string& name) const { return (directory_.path() / name).string(); }
  void Write(const std::string& name, const std::string& text) const {
    testing::ReplaceFile(directory_.path() / name, text);
  }
  absl::Status Error() const { return ReadCertificateFiles(options_).status(); }
  void ExpectError(const char* setting, const std::string& file, const char* problem) const {
    const absl::Status status = Error();
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(setting), HasSubstr(file),
                                                     HasSubstr(problem), Not(HasSubstr("BEGIN"))));
  }

  testing::TemporaryDirectory directory_;
  testing::CertificateAuthority authority_{"test authority"};
  testing::IssuedCertificate server_ = authority_.Issue("the server");
  TlsOptions options_;
};

TEST_F(CertificateFilesTest, Read_TakesAGoodSet) {
  const auto files = ReadCertificateFiles(options_);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->certificate, server_.certificate);
  EXPECT_EQ(files->key, server_.key);
  EXPECT_EQ(files->client_ca, authority_.certificate());
  EXPECT_EQ(files->subject, "CN=the server");
  EXPECT_GT(files->expiry, absl::Now() + absl::Minutes(59));
  EXPECT_LT(files->expiry, absl::Now() + absl::Minutes(61));
}

TEST_F(CertificateFilesTest, Read_TakesAChainAndKeyInOneFile) {
  Write("all.pem", server_.key + server_.certificate + authority_.certificate());
  options_.certificate = Path("all.pem");
  options_.key = Path("all.pem");
  EXPECT_TRUE(Error().ok()) << Error();
}

TEST_F(CertificateFilesTest, Read_NamesTheSettingOfAFileThatIsMissing) {
  const TlsOptions good = options_;
  options_.certificate = Path("none");
  ExpectError("tls-certificate", Path("none"), "No such file");
  options_ = good;
  options_.key = Path("none");
  ExpectError("tls-key", Path("none"), "No such file");
  options_ = good;
  options_.client_ca = Path("none");
  ExpectError("tls-client-ca", Path("none"), "No such file");
}

TEST_F(CertificateFilesTest, Read_RefusesAKeyOfAnotherCertificate) {
  Write("key.pem", authority_.Issue("another").key);
  ExpectError("tls-key", Path("key.pem"), "is not the key of the certificate in");
}

TEST_F(CertificateFilesTest, Read_RefusesWhatIsNoPem) {
  Write("certificate.pem", "not PEM");
  ExpectError("tls-certificate", Path("certificate.pem"), "no certificate in PEM format");
  Write("certificate.pem", server_.certificate);
  Write("key.pem", server_.certificate);
  ExpectError("tls-key", Path("key.pem"), "no private key");
  Write("key.pem", server_.key);
  Write("ca.pem", "");
  ExpectError("tls-client-ca", Path("ca.pem"), "no certificate in PEM format");
}

TEST_F(CertificateFilesTest, Read_RefusesAChainWhoseSecondCertificateIsDamaged) {
  std::string damaged = authority_.certificate();
  damaged.replace(damaged.size() / 2, 4, "!!!!");
  Write("certificate.pem", server_.certificate + damaged);
  ExpectError("tls-certificate", Path("certificate.pem"), "cannot be read");
}

TEST_F(CertificateFilesTest, Read_RefusesAnExpiredCertificate) {
  server_ = authority_.Issue("late", absl::Now() - absl::Minutes(1));
  Write("certificate.pem", server_.certificate);
  Write("key.pem", server_.key);
  ExpectError("tls-certificate", Path("certificate.pem"), "expired");
}

TEST_F(CertificateFilesTest, Check_RefusesSettingsThatDoNotBelongTogether) {
  EXPECT_TRUE(TlsOptions().Check().ok());
  EXPECT_TRUE(options_.Check().ok());
  EXPECT_THAT(std::string(TlsOptions{"a", "", ""}.Check().message()), HasSubstr("tls-key is not"));
  EXPECT_THAT(std::string(TlsOptions{"", "a", ""}.Check().message()),
              HasSubstr("tls-certificate is not"));
  EXPECT_THAT(std::string(TlsOptions{"", "", "a"}.Check().message()),
              HasSubstr("tls-certificate is not"));
}

}  // namespace
}  // namespace quantloom
