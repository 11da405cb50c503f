#include "tests/services/common/certificate_authority.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <atomic>

#include "core/base/file.h"
#include "gtest/gtest.h"

namespace quantloom::testing {
namespace {

std::string Text(BIO* bio) {
  char* data = nullptr;
  const auto size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

std::string ToPem(X509* certificate) {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate);
  return Text(bio);
}

std::string ToPem(EVP_PKEY* key) {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  return Text(bio);
}

void Extend(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

X509* NewCertificate(const std::string& common_name, EVP_PKEY* key, absl::Time expiry) {
  static std::atomic<int> serial{1};
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);  // version 3
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
  X509_time_adj_ex(X509_getm_notBefore(certificate), 0, -3600, nullptr);
  time_t end = absl::ToTimeT(expiry);
  X509_time_adj_ex(X509_getm_notAfter(certificate), 0, 0, &end);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                             0);
  return certificate;
}

}  // namespace

struct CertificateAuthority::State {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
};

CertificateAuthority::CertificateAuthority(const std::string& name)
    : state_(std::make_unique<State>()) {
  state_->key = EVP_EC_gen("P-256");
  state_->certificate = NewCertificate(name, state_->key, absl::Now() + absl::Hours(1));
  X509_set_issuer_name(state_->certificate, X509_get_subject_name(state_->certificate));
  Extend(state_->certificate, state_->certificate, NID_basic_constraints, "critical,CA:TRUE");
  Extend(state_->certificate, state_->certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  X509_sign(state_->certificate, state_->key, EVP_sha256());
  certificate_ = ToPem(state_->certificate);
}

CertificateAuthority::~CertificateAuthority() {
  X509_free(state_->certificate);
  EVP_PKEY_free(state_->key);
}

IssuedCertificate CertificateAuthority::Issue(const std::string& common_name,
                                              absl::Time expiry) const {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = NewCertificate(common_name, key, expiry);
  X509_set_issuer_name(certificate, X509_get_subject_name(state_->certificate));
  Extend(certificate, state_->certificate, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  Extend(certificate, state_->certificate, NID_ext_key_usage, "serverAuth,clientAuth");
  X509_sign(certificate, state_->key, EVP_sha256());
  IssuedCertificate issued{ToPem(certificate), ToPem(key)};
  X509_free(certificate);
  EVP_PKEY_free(key);
  return issued;
}

void ReplaceFile(const std::filesystem::path& path, const std::string& text) {
  ASSERT_TRUE(WriteFileAtomically(path, text).ok()) << path;
}

}  // namespace quantloom::testing
