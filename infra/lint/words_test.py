"""Tests of words.py: `python3 infra/lint/words.py --self-test`."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import words
from words import Lint, Use

GROUP = {
    "use": "usage event",
    "words": ["entry", "set aside", r"(?-i:Terms)", r"\.over\b"],
    "contexts": ["AWS entry", r"\.entry\("],
    "files": ["cache/*"],
}


def lint(**changes):
    """Returns a lint with one group of words."""
    return Lint({"skipped": ["*.lock"], "retired": [{**GROUP, **changes}]})


def found(text, path="a.rs", **changes):
    """Returns line and word of each use in a text."""
    return [(use.line, use.word) for use in lint(**changes).uses(path, text)]


class Words(unittest.TestCase):
    """Where a word is found, and where it is not."""

    def test_a_use_has_file_line_word_and_term(self):
        use = Use("src/a.rs", 2, "Entry", "usage event")
        self.assertEqual(lint().uses("src/a.rs", "fn a();\nstruct UsageEntry;\n"), [use])
        self.assertEqual(str(use), 'src/a.rs:2: "Entry" is retired; use usage event')

    def test_a_word_is_found_in_prose_and_in_identifiers(self):
        for text in ("an entry.", "entry_pk", "log_entry", "UsageEntry", "LOG_ENTRY", "ENTRYId", "entry1"):
            self.assertEqual(len(found(text)), 1, text)

    def test_a_part_of_a_word_is_not_found(self):
        for text in ("reentry", "entryway", "Reentry", "gentry_", "REENTRY"):
            self.assertEqual(found(text), [], text)

    def test_words_are_found_in_every_form(self):
        for text in ("set aside", "set_aside", "SetAside", "SET_ASIDE", "set-aside", "setAside", "set  aside"):
            self.assertEqual(len(found(text)), 1, text)
        self.assertEqual(found("setaside"), [])

    def test_words_are_found_across_lines(self):
        for between in ("\n", "\n    /// ", " \n//! ", "\n  # ", "\n> ", " \\\n    "):
            self.assertEqual(len(found(f"a\nis set{between}aside")), 1, between)
            self.assertEqual(found(f"a\nis set{between}aside")[0][0], 2, between)
        self.assertEqual(found("set\n\naside"), [])

    def test_case_counts_on_request(self):
        self.assertEqual(found("Terms of CARGO_TERMS in terms"), [(1, "Terms")])

    def test_punctuation_may_begin_an_expression(self):
        self.assertEqual(found("line.over, call.over_all, over"), [(1, ".over")])

    def test_a_context_allows_a_word_within_it_only(self):
        self.assertEqual(found("map.entry(key); entry(key); an AWS\n/// entry"), [(1, "entry")])

    def test_a_file_may_be_exempt_or_skipped(self):
        self.assertEqual(found("entry", "cache/a.rs"), [])
        self.assertEqual(found("entry", "a.lock"), [])
        self.assertEqual(found("entry", "a.toml", only="*.rs"), [])

    def test_what_is_allowed_without_need_is_reported(self):
        checked = lint()
        checked.uses("a.rs", "map.entry(key)")
        self.assertEqual(checked.unneeded(), ["AWS entry", "cache/*"])


class Committed(unittest.TestCase):
    """The committed list does what its examples say."""

    def test_examples_are_found(self):
        checked = Lint.committed()
        for group in checked.retired:
            self.assertTrue(group.found, group.use)
            for example in group.found:
                terms = {use.term for use in checked.uses("a.rs", example)}
                self.assertIn(group.use, terms, example)

    def test_ordinary_uses_pass(self):
        checked = Lint.committed()
        for group in checked.retired:
            for example in group.passes:
                self.assertEqual(checked.uses("a.rs", example), [], example)


class Program(unittest.TestCase):
    """What is printed, and the exit status."""

    def run_on(self, text):
        with tempfile.TemporaryDirectory() as root:
            Path(root, "a.rs").write_text(text, encoding="utf-8")
            Path(root, "image.png").write_bytes(b"\x89PNG")
            printed = io.StringIO()
            with (
                mock.patch.object(words, "ROOT", Path(root)),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                status = words.main(["a.rs", "image.png", "deleted.rs"])
        return status, printed.getvalue()

    def test_a_finding_is_printed_and_fails(self):
        status, printed = self.run_on("// Fine.\n// The tally.\n")
        self.assertEqual(status, 1)
        self.assertTrue(printed.startswith('a.rs:2: "tally" is retired; use aggregate'), printed)

    def test_without_findings_nothing_is_printed(self):
        self.assertEqual(self.run_on("// The aggregate.\n"), (0, ""))


if __name__ == "__main__":
    unittest.main()
