#include "services/common/configuration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "services/common/version.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// One service's settings, parsed from arguments, the environment and a file.
class ConfigurationTest : public ::testing::Test {
 protected:
  ~ConfigurationTest() override {
    for (const std::string& name : variables_) unsetenv(name.c_str());
  }

  void SetVariable(const std::string& name, const std::string& value) {
    variables_.push_back(name);
    setenv(name.c_str(), value.c_str(), 1);
  }

  std::string WriteConfigFile(const std::string& text) {
    const std::string path = (directory_.path() / "configuration.toml").string();
    std::ofstream(path) << text;
    return path;
  }

  std::optional<int> Parse(std::vector<const char*> arguments) {
    configuration_.Add("threads", threads_, "Threads")->check(CLI::Range(0, 64));
    configuration_.Add("model-root", model_root_, "Models");
    configuration_.Add("grace-period", grace_period_, "Grace");
    configuration_.Add("load-all", load_all_, "Load all");
    configuration_.Add("load", load_, "Models to load");
    arguments.insert(arguments.begin(), "quantloom-test");
    return configuration_.Parse(static_cast<int>(arguments.size()), arguments.data(), out_, err_);
  }

  testing::TemporaryDirectory directory_;
  Configuration configuration_{"quantloom-test", "A test."};
  int threads_ = 1;
  std::string model_root_ = "/models";
  absl::Duration grace_period_ = absl::Seconds(30);
  bool load_all_ = false;
  std::vector<std::string> load_;
  std::ostringstream out_;
  std::ostringstream err_;

 private:
  std::vector<std::string> variables_;
};

TEST_F(ConfigurationTest, Parse_KeepsDefaultsThatNothingOverrides) {
  EXPECT_EQ(Parse({}), std::nullopt);
  EXPECT_EQ(threads_, 1);
  EXPECT_EQ(model_root_, "/models");
  EXPECT_EQ(grace_period_, absl::Seconds(30));
}

TEST_F(ConfigurationTest, Parse_FlagWinsOverVariableOverFileOverDefault) {
  const std::string file =
      WriteConfigFile("threads = 2\nmodel-root = \"/file\"\ngrace-period = \"2s\"\n");
  SetVariable("QUANTLOOM_THREADS", "3");
  SetVariable("QUANTLOOM_MODEL_ROOT", "/variable");
  EXPECT_EQ(Parse({"--config", file.c_str(), "--threads", "4"}), std::nullopt) << err_.str();
  EXPECT_EQ(threads_, 4);
  EXPECT_EQ(model_root_, "/variable");
  EXPECT_EQ(grace_period_, absl::Seconds(2));
}

TEST_F(ConfigurationTest, Parse_TakesASwitchWithAndWithoutValue) {
  EXPECT_EQ(Parse({"--load-all", "--threads=3"}), std::nullopt);
  EXPECT_TRUE(load_all_);
  EXPECT_EQ(threads_, 3);
}

TEST_F(ConfigurationTest, Parse_TakesAnEmptyValueFromFlagAndFile) {
  EXPECT_EQ(Parse({"--model-root=", "--threads=3", "--load-all=", "--load=a"}), std::nullopt)
      << err_.str();
  EXPECT_EQ(model_root_, "");
  EXPECT_EQ(threads_, 3);
  EXPECT_TRUE(load_all_);
  EXPECT_THAT(load_, ElementsAre("a"));

  Configuration from_file("quantloom-test", "A test.");
  std::string root = "/models";
  from_file.Add("model-root", root, "Models");
  const std::string file = WriteConfigFile("model-root = \"\"\n");
  const char* arguments[] = {"quantloom-test", "--config", file.c_str()};
  EXPECT_EQ(from_file.Parse(3, arguments, out_, err_), std::nullopt) << err_.str();
  EXPECT_EQ(root, "");
}

TEST_F(ConfigurationTest, Parse_FlagTurnsOffASwitchOfTheEnvironment) {
  SetVariable("QUANTLOOM_LOAD_ALL", "true");
  EXPECT_EQ(Parse({"--load-all=false"}), std::nullopt);
  EXPECT_FALSE(load_all_);
}

TEST_F(ConfigurationTest, Parse_TakesASwitchAndAListFromEnvironmentAndFile) {
  SetVariable("QUANTLOOM_LOAD_ALL", "true");
  const std::string file = "--config=" + WriteConfigFile("load = [\"a\", \"b\"]\n");
  EXPECT_EQ(Parse({file.c_str()}), std::nullopt);
  EXPECT_TRUE(load_all_);
  EXPECT_THAT(load_, ElementsAre("a", "b"));
}

TEST_F(ConfigurationTest, Parse_TakesAllElementsOfAListFromItsFirstSource) {
  SetVariable("QUANTLOOM_LOAD", "x,y");
  const std::string file = "--config=" + WriteConfigFile("load = [\"z\"]\n");
  EXPECT_EQ(Parse({"--load", "a", "--load=b,c", file.c_str()}), std::nullopt);
  EXPECT_THAT(load_, ElementsAre("a", "b", "c"));
}

TEST_F(ConfigurationTest, Parse_TakesAListFromTheEnvironmentBeforeTheFile) {
  SetVariable("QUANTLOOM_LOAD", "x,y");
  const std::string file = "--config=" + WriteConfigFile("load = [\"z\"]\n");
  EXPECT_EQ(Parse({file.c_str()}), std::nullopt);
  EXPECT_THAT(load_, ElementsAre("x", "y"));
}

TEST_F(ConfigurationTest, Parse_TakesTheFileFromTheEnvironment) {
  SetVariable("QUANTLOOM_CONFIG", WriteConfigFile("threads = 7\n"));
  EXPECT_EQ(Parse({}), std::nullopt) << err_.str();
  EXPECT_EQ(threads_, 7);
}

TEST_F(ConfigurationTest, Parse_TreatsAnEmptyVariableAsUnset) {
  SetVariable("QUANTLOOM_THREADS", "");
  EXPECT_EQ(Parse({}), std::nullopt) << err_.str();
  EXPECT_EQ(threads_, 1);
}

TEST_F(ConfigurationTest, Parse_IgnoresVariablesOfOtherPrograms) {
  SetVariable("QUANTLOOM_SERVER_SERVICE_HOST", "10.0.0.1");
  EXPECT_EQ(Parse({}), std::nullopt) << err_.str();
}

TEST_F(ConfigurationTest, Parse_RefusesAnUnknownFlag) {
  EXPECT_EQ(Parse({"--thread", "4"}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("--thread"));
}

TEST_F(ConfigurationTest, Parse_RefusesAnUnknownKey) {
  EXPECT_EQ(Parse({"--config", WriteConfigFile("treads = 4\n").c_str()}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("treads"));
}

TEST_F(ConfigurationTest, Parse_RefusesAMissingFile) {
  EXPECT_EQ(Parse({"--config", "/nonexistent/quantloom.toml"}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("/nonexistent/quantloom.toml"));
}

TEST_F(ConfigurationTest, Parse_RefusesAPositionalArgument) { EXPECT_EQ(Parse({"4"}), 2); }

struct BadValue {
  const char* flag;
  const char* value;
};
class BadValueTest : public ConfigurationTest, public ::testing::WithParamInterface<BadValue> {};

TEST_P(BadValueTest, Parse_RefusesAndNamesTheSetting) {
  const std::string argument = std::string(GetParam().flag) + "=" + GetParam().value;
  EXPECT_EQ(Parse({argument.c_str()}), 2);
  EXPECT_THAT(err_.str(), HasSubstr(GetParam().flag));
}

INSTANTIATE_TEST_SUITE_P(All, BadValueTest,
                         ::testing::Values(BadValue{"--threads", "many"},
                                           BadValue{"--threads", "-1"}, BadValue{"--threads", "65"},
                                           BadValue{"--threads", "4x"}, BadValue{"--threads", ""},
                                           BadValue{"--grace-period", ""},
                                           BadValue{"--grace-period", "30"},
                                           BadValue{"--grace-period", "-1s"}));

TEST_F(ConfigurationTest, PrintConfig_WritesAFileThatGivesTheSameSettings) {
  EXPECT_EQ(Parse({"--print-config", "--threads=5", "--grace-period=90s", "--load=a", "--load=b c",
                   "--load-all"}),
            0);
  const std::string file = WriteConfigFile(out_.str());

  Configuration again("quantloom-test", "A test.");
  int threads = 0;
  std::string model_root;
  absl::Duration grace_period;
  bool load_all = false;
  std::vector<std::string> load;
  again.Add("load-all", load_all, "");
  again.Add("load", load, "");
  again.Add("threads", threads, "");
  again.Add("model-root", model_root, "");
  again.Add("grace-period", grace_period, "");
  const char* arguments[] = {"quantloom-test", "--config", file.c_str()};
  EXPECT_EQ(again.Parse(3, arguments, out_, err_), std::nullopt) << err_.str() << out_.str();
  EXPECT_EQ(threads, 5);
  EXPECT_EQ(model_root, "/models");
  EXPECT_EQ(grace_period, absl::Seconds(90));
  EXPECT_TRUE(load_all);
  EXPECT_THAT(load, ElementsAre("a", "b c"));
}

TEST_F(ConfigurationTest, PrintConfig_LeavesAnEmptyListOut) {
  EXPECT_EQ(Parse({"--print-config"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("load-all=false"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("load=")));
}

TEST_F(ConfigurationTest, Help_ListsSettingsWithVariablesAndDefaults) {
  EXPECT_EQ(Parse({"--help"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("--model-root"));
  EXPECT_THAT(out_.str(), HasSubstr("QUANTLOOM_MODEL_ROOT"));
  EXPECT_THAT(out_.str(), HasSubstr("/models"));
}

TEST_F(ConfigurationTest, Version_IsPrinted) {
  EXPECT_EQ(Parse({"--version"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr(Version()));
}

TEST_F(ConfigurationTest, Differences_NamesTheSettingsWhoseValuesAreOthers) {
  ASSERT_FALSE(Parse({"--threads=2", "--load=a,b"}).has_value());
  Configuration other("quantloom-test", "A test.");
  int threads = 1;
  std::string model_root = "/models";
  absl::Duration grace_period = absl::Seconds(30);
  bool load_all = false;
  std::vector<std::string> load;
  other.Add("threads", threads, "Threads");
  other.Add("model-root", model_root, "Models");
  other.Add("grace-period", grace_period, "Grace");
  other.Add("load-all", load_all, "Load all");
  other.Add("load", load, "Models to load");
  const char* arguments[] = {"quantloom-test", "--threads=2", "--load=a", "--grace-period=1m"};
  ASSERT_FALSE(other.Parse(4, arguments, out_, err_).has_value());
  EXPECT_THAT(configuration_.Differences(other), ElementsAre("grace-period", "load"));
  EXPECT_THAT(configuration_.Differences(configuration_), ElementsAre());
}

}  // namespace
}  // namespace quantloom
