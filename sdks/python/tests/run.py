"""Runs tests, and ends with the line `N passed, N failed`.

    run.py MODULE…
"""

from __future__ import annotations

import sys
import unittest

if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=0).run(suite)
    # A test with several subtests that fail is one.
    failures = {str(getattr(test, "test_case", test)) for test, _ in [*result.failures, *result.errors]}
    passed = max(result.testsRun - len(result.skipped) - len(failures), 0)
    print(f"{passed} passed, {len(failures)} failed")
    sys.exit(not result.wasSuccessful() or not passed)
