"""Finds words that the glossary retires, in every file that git does not ignore.

    python3 infra/lint/words.py [FILE…]     checks these files, or all
    python3 infra/lint/words.py --self-test

infra/lint/retired-words.toml has the words, the term to use in place of each, and where a word keeps
another meaning. Prints file, line, word and term of each use, and exits with 1 if there is one. Needs
Python 3.11 or newer.
"""

import fnmatch
import re
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "infra/lint/retired-words.toml"

# A word begins and ends where an identifier's part or a word of a text does: "entry" is in `entry_pk`,
# `UsageEntry` and `ENTRIES`, and not in `reentry`. An expression may also begin or end with punctuation.
BEGINS = re.compile(r"(?<![A-Za-z])|(?![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
ENDS = re.compile(r"(?![A-Za-z])|(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# A space of an expression: spaces, `_`, `-`, the next capital, or the end of a line and what precedes the
# text on the next one. So "set aside" is in `set_aside`, `SetAside`, and a comment of two lines.
GAP = r"(?:[ \t_-]+|[ \t]*\\?\n[ \t]*(?://[/!]?|\#+|\*|>)?[ \t]*|(?-i:(?<=[a-z])(?=[A-Z])))"


class Expression:
    """An expression of the list. It ignores case, except within `(?-i:…)`."""

    def __init__(self, text, of_word=False):
        self.text = text
        pattern = text.replace(" ", GAP)
        if of_word:
            pattern = f"(?:{pattern})(?-i:{ENDS.pattern})"
        self.pattern = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        self.literal = literal(text)
        self.of_word = of_word

    def spans(self, text, lowered):
        """Yields start and end of each match in a text, which is also given in lower case."""
        if self.literal in lowered:
            for match in self.pattern.finditer(text):
                if not self.of_word or BEGINS.match(text, match.start()):
                    yield match.span()


def literal(text):
    """Returns a literal that is in each match of an expression, in lower case: without it, a text need
    not be searched with the expression, which is slow. Empty if there is none."""
    text, previous = re.sub(r"\(\?-i:(\w+)\)", r"\1", text), None
    while text != previous:
        # An escape, a class, a group, or a letter that may be absent.
        optional = r"\\.|\[[^]]*\]|\([^()]*\)|\w[?*{]"
        text, previous = re.sub(optional, " ", text), text
    return "" if "|" in text else max(re.findall("[a-z]+", text.lower()), key=len, default="")


class Use(NamedTuple):
    """A use of a retired word."""

    path: str
    line: int
    word: str
    term: str

    def __str__(self):
        return f'{self.path}:{self.line}: "{self.word}" is retired; use {self.term}'


class Retired:
    """A group of retired words with one replacement."""

    def __init__(self, use, words, contexts=(), files=(), only="*", found=(), passes=()):
        self.use = use
        self.words = [Expression(word, of_word=True) for word in words]
        self.contexts = [Expression(context) for context in contexts]
        self.files = files
        self.only = only
        self.found = found
        self.passes = passes
        # Contexts and files that have allowed a use.
        self.needed = set()

    def uses(self, path, text, lowered):
        """Yields the uses of the words in a file that neither a context nor the file allows."""
        if not fnmatch.fnmatch(path, self.only):
            return
        spans = {span for word in self.words for span in word.spans(text, lowered)}
        if not spans:
            return
        exempt = [files for files in self.files if fnmatch.fnmatch(path, files)]
        self.needed.update(exempt)
        if exempt:
            return
        around = {
            context.text: list(context.spans(text, lowered)) for context in self.contexts
        }
        for start, end in spans:
            allowed = {
                context
                for context, within in around.items()
                if any(first <= start and end <= last for first, last in within)
            }
            self.needed |= allowed
            if not allowed:
                line = text.count("\n", 0, start) + 1
                yield Use(path, line, " ".join(text[start:end].split()), self.use)

    def unneeded(self):
        """Returns the contexts and files that have allowed nothing so far."""
        allowed = [*(context.text for context in self.contexts), *self.files]
        return [text for text in allowed if text not in self.needed]


class Lint:
    """The list, compiled."""

    def __init__(self, config):
        self.skipped = config["skipped"]
        self.retired = [Retired(**group) for group in config["retired"]]

    @classmethod
    def committed(cls):
        """Reads the list of this repository."""
        with LIST.open("rb") as file:
            return cls(tomllib.load(file))

    def uses(self, path, text):
        """Returns the uses of retired words in a file, from top to bottom."""
        if any(fnmatch.fnmatch(path, skipped) for skipped in self.skipped):
            return []
        lowered = text.lower()
        return sorted(use for group in self.retired for use in group.uses(path, text, lowered))

    def unneeded(self):
        """Returns the contexts and files of the list that have allowed nothing so far."""
        return [text for group in self.retired for text in group.unneeded()]


def all_paths():
    """Returns the paths of all files that git has, or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return sorted({path for path in listed.stdout.split("\0") if path})


def main(paths):
    """Checks the files at these paths, or all, and returns the exit status."""
    lint = Lint.committed()
    findings = []
    for path in paths or all_paths():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            # Not a text, deleted and not yet committed as such, or a link to a directory.
            continue
        findings += lint.uses(path, text)
    if not paths:
        lines = LIST.read_text(encoding="utf-8").splitlines()
        for text in lint.unneeded():
            line = next(number for number, line in enumerate(lines, 1) if text in line)
            findings.append(f"{LIST.relative_to(ROOT)}:{line}: {text!r} allows nothing; remove it")
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} findings; docs/glossary.md has the terms", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        unittest.main(module="words_test", argv=sys.argv[:1])
    sys.exit(main(sys.argv[1:]))
