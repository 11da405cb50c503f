"""Ratios of rounds, and the page that is made of them."""

import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import performance_page  # noqa: E402
from performance_results import IK, LLAMA, OURS, PARTS, REQUIREMENTS, Requirement, load, outcome, save  # noqa: E402

DECODE = Requirement("1b", "decode", "decode 1", "ours", ("slow", "fast"), 1.2, 1.8)


def round_of(ours, slow, fast):
    return {"ours": {"decode 1": ours}, "slow": {"decode 1": slow}, "fast": {"decode 1": fast}}


class OutcomeTest(unittest.TestCase):
    def test_ratio_is_the_median_of_the_rounds_ratios(self):
        # The machine is twice as fast in the second round: a ratio of medians would be 30 / 15.
        found = outcome(DECODE, [round_of(10, 5, 10), round_of(60, 10, 20), round_of(30, 1, 15)])
        self.assertEqual((found.ratio, found.low, found.high, found.rounds), (2.0, 1.0, 3.0, 3))

    def test_peer_is_the_one_with_the_best_median(self):
        # "slow" wins one round by chance.
        found = outcome(DECODE, [round_of(10, 50, 10), round_of(10, 5, 10), round_of(10, 5, 10)])
        self.assertEqual((found.peer, found.high), ("fast", 1.0))

    def test_rounds_without_one_of_the_two_do_not_count(self):
        found = outcome(DECODE, [round_of(20, 5, 10), {"ours": {"decode 1": 99}}, {"fast": {"decode 1": 1}}])
        self.assertEqual((found.ratio, found.rounds), (2.0, 1))

    def test_nothing_measured_is_no_outcome(self):
        self.assertIsNone(outcome(DECODE, []))
        self.assertIsNone(outcome(DECODE, [{"ours": {"decode 1": 1.0}}]))

    def test_without_peers_the_metric_itself_counts(self):
        share = Requirement("1b", "share", "bandwidth share", "ours", (), 0.75, 0.9)
        self.assertEqual(outcome(share, [{"ours": {"bandwidth share": 0.8}}]).ratio, 0.8)

    def test_over_divides_by_another_metric_of_ours(self):
        batch = Requirement("1b", "batch", "decode 8", "ours", (), 3, 5, over="decode 1")
        self.assertEqual(outcome(batch, [{"ours": {"decode 8": 40.0, "decode 1": 10.0}}]).ratio, 4.0)


class RequirementsTest(unittest.TestCase):
    def test_name_contestants_of_their_part(self):
        for requirement in REQUIREMENTS:
            names = {contestant.name for contestant in PARTS[requirement.part]}
            self.assertLessEqual({requirement.ours, *requirement.peers}, names, requirement.title)

    def test_contestants_with_one_name_are_one(self):
        for contestants in PARTS.values():
            names = [contestant.name for contestant in contestants]
            self.assertEqual(len(names), len(set(names)))

    def test_files_of_different_models_differ(self):
        models = {(c.side, c.kind, c.shape, c.vocabulary): c.file for contestants in PARTS.values() for c in contestants}
        self.assertEqual(len(models), len(set(models.values())))


class PageTest(unittest.TestCase):
    def test_blocks_are_replaced_and_the_rest_stays(self):
        page = performance_page.replace("a\n<!-- x -->\nold\n<!-- end x -->\nb\n", "x", "new")
        self.assertEqual(page, "a\n<!-- x -->\nnew\n<!-- end x -->\nb\n")
        self.assertEqual(performance_page.replace(page, "x", "new"), page)
        with self.assertRaises(SystemExit):
            performance_page.replace(page, "y", "new")

    def test_requirements_say_what_was_reached(self):
        ours, peers = REQUIREMENTS[0].ours, REQUIREMENTS[0].peers
        for speed, word in ((20.0, "aim"), (14.0, "floor"), (9.0, "**missed**")):
            rounds = [{ours: {"decode 1": speed}, peers[0]: {"decode 1": 10.0}}]
            line = performance_page.requirements({"parts": {"demonstration": rounds}}).splitlines()[2]
            self.assertTrue(line.endswith(f"| {word} |"), line)
            self.assertIn(f"**{speed / 10:.2f}**", line)

    def test_plots_are_drawings_also_of_nothing(self):
        rounds = [{c.name: {"decode 1": 10.0 + i, "prompt": 5.0} for i, c in enumerate(PARTS["1b"])}]
        for parts in ({}, {"1b": rounds}):
            for svg in (performance_page.ratio_plot({"parts": parts}),
                        performance_page.speed_plot({"parts": parts}, "1b", "decode 1", "title")):
                xml.etree.ElementTree.fromstring(svg)
        self.assertIn(f"{IK} Q2_K", svg)
        self.assertIn(LLAMA, svg)
        self.assertIn(OURS, svg)


class ResultsTest(unittest.TestCase):
    def test_what_was_saved_is_loaded(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "new", "results.json")
            self.assertEqual(load(path), {"parts": {}})
            save({"parts": {"1b": [{"ours": {"decode 1": 1.5}}]}}, path)
            self.assertEqual(load(path)["parts"]["1b"][0]["ours"]["decode 1"], 1.5)


if __name__ == "__main__":
    unittest.main()
