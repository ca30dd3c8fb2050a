"""What the Python clients share: rules as functions, one JSON line per rule, each told whether it held."""

import json
import sys
import time
import traceback

RULES = []


def rule(function):
    """Marks a function as a rule; its name is the sentence. What it returns is printed as what was seen."""
    RULES.append(function)
    return function


def tell(name, held, seen):
    sentence = name.replace("_", " ")
    print(json.dumps({"rule": sentence, "held": held, "seen": str(seen)[:600]}), flush=True)


def run(only, *arguments):
    """Runs every rule, or those whose name contains `only`."""
    for function in RULES:
        if only and only not in function.__name__:
            continue
        try:
            tell(function.__name__, True, function(*arguments) or "")
        except Exception as error:  # noqa: BLE001 a rule may fail in any way; the others still run
            where = traceback.extract_tb(error.__traceback__)[-1]
            tell(function.__name__, False, f"{type(error).__name__}: {error} (line {where.lineno}: {where.line})")


def eventually(look, within=10.0):
    """Waits for `look` to return something true, and returns it."""
    start = time.monotonic()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() - start > within:
            raise AssertionError(f"not within {within} s; last seen {found!r}")
        time.sleep(0.01)


def equal(got, wanted):
    assert got == wanted, f"got {got!r:.250}, wanted {wanted!r:.250}"


def arguments():
    """The command line: `key=value` words."""
    return dict(word.split("=", 1) for word in sys.argv[1:])
