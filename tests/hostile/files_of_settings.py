"""Files in place of params.yaml, and the error for each."""

from __future__ import annotations

from itertools import pairwise

from places import NO_FILES


def bomb(letters: str = "abcdefghij", alias: str = "[{}]") -> bytes:
    """Each value is a list of nine times the one before it."""
    lines = [f"{letters[0]}: &{letters[0]} {{x: 1}}"]
    for before, letter in pairwise(letters):
        lines.append(f"{letter}: &{letter} " + alias.format(", ".join([f"*{before}"] * 9)))
    return "\n".join(lines).encode()


FILES: dict[str, tuple[bytes | str, str]] = {
    "a section twice": (b"retrievers: {}\ntables: {}\nretrievers: {}\n", ":3: key 'retrievers' is already in line 1"),
    "a key twice": (b"a:\n  depth: 5\n  depth: 6\n", ":3: key 'depth' is already in line 2; keep one of them"),
    "a key twice in brackets": (b"a: {depth: 5, depth: 6}\n", ":1: key 'depth' is already in line 1"),
    "a key twice in quotes": (b"a:\n  depth: 5\n  'depth': 6\n", ":3: key 'depth' is already in line 2"),
    "yes as a key": (b"yes: 1\n", ":1: key 'yes' is not a string; put it in quotes"),
    "a number as a key": (b"2019: 1\n", ":1: key '2019' is not a string; put it in quotes"),
    "null as a key": (b"~: 1\n", ":1: key '~' is not a string; put it in quotes"),
    "a list as a key": (b"? [a]\n: 1\n", ":1: key of brackets is not a string; put it in quotes"),
    "an anchor that holds itself": (
        b"a: &a [*a]\n",
        ":1: nested deeper than 64 levels through an anchor (&), which may",
    ),
    "a mapping that holds itself": (b"a: &a\n  b: *a\n", ": nested deeper than 64 levels through an anchor"),
    "two anchors that hold each other": (
        b"a: &a [&b [*a, *b]]\n",
        ":1: nested deeper than 64 levels through an anchor",
    ),
    "a bomb": (bomb(), ": more than 200,000 values after anchors (&) are expanded; write fewer"),
    "a bomb of merges": (bomb(alias="{{<<: [{}]}}"), ": more than 200,000 values after anchors (&) are expanded"),
    "a chain of anchors": (
        b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n + 1, n + 1, n) for n in range(1000)),
        ": nested deeper than 64 levels through an anchor (&), which may contain itself",
    ),
    "100,000 brackets": (b"a: " + b"[" * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "100,000 braces": (b"{a: " * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "100,000 dashes": (b"- " * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "5,000 digits": (b"a: " + b"9" * 5000, ":1: a whole number of 5,000 digits; write a smaller one, or quote it"),
    "5,000 hexadecimal digits": (b"a: 0x" + b"f" * 5000, ":1: a whole number of 5,002 digits"),
    "a number beyond 64 bits": (b"a: {b: [1, 99999999999999999999]}", ": a.b[1]: a whole number beyond 64 bits"),
    "octal": (b"a: 010", ":1: '010' is read as a number in octal; write it in decimal, or quote it"),
    "base 60": (b"a: 1:30", ":1: '1:30' is read as a number in base 60; write it in decimal, or quote it"),
    "a fraction in base 60": (b"a: 1:30.5", ":1: '1:30.5' is read as a number in base 60"),
    "no binary digit": (b"a: 0b_", ": malformed YAML: invalid literal for int()"),
    "a date": (b"a: 2001-01-01", ":1: '2001-01-01' is read as timestamp, which has no meaning here"),
    "a date that is none": (b"a: 2001-99-99", ":1: '2001-99-99' is read as timestamp"),
    "a set": (b"a: !!set {x}", ":1: the tag 'tag:yaml.org,2002:set' has no meaning here; remove it"),
    "bytes": (b"a: !!binary aGk=", ":1: 'aGk=' is read as binary, which has no meaning here; put it in quotes"),
    "an object of Python": (b"a: !!python/object/apply:os.system [echo]", ":1: the tag 'tag:yaml.org,2002:python"),
    "a tag that does not fit": (b"a: !!float abc", ":1: 'abc' is read as float, which has no meaning here"),
    "a tag of its own": (b"a: !mine x", ":1: 'x' is read as !mine, which has no meaning here; put it in quotes"),
    "half a surrogate pair": (rb'a: "\ud800"', ":1: malformed YAML: while parsing a quoted scalar found invalid"),
    "NUL": (rb'a: {b: "x\0"}', r": a.b: text with the character '\x00', which cannot be written; remove it"),
    "an escape sequence": (rb'a: "\x1b[2J"', r": a: text with the character '\x1b', which cannot be written"),
    "an escape sequence in a key": (rb'{"\x1b[2J": 1}', r": text with the character '\x1b', which cannot be written"),
    "a bare NUL": (b"a: \0", ": malformed YAML: unacceptable character"),
    "two documents": (b"a: 1\n---\nb: 2\n", ":2: malformed YAML: expected a single document in the stream but found"),
    "an alias of nothing": (b"a: *b\n", ":1: malformed YAML: found undefined alias"),
    "a tab": (b"a:\n\t- b\n", ":2: malformed YAML: while scanning for the next token found character"),
    "no mapping": (b"5", ": has no keys; see params.yaml for the sections"),
    "9 MB": (b"#" * 9_000_000, ": has more than 8,388,608 bytes; is it the right file?"),
    "a merge of no mapping": (b"a: {<<: 5}", ":1: malformed YAML: while constructing a mapping expected a mapping"),
    "Latin-1": ("a: é".encode("latin-1"), ": byte 4 is not UTF-8; convert the file to UTF-8"),
    "a zip file": (b"PK\x03\x04\xff\xfe\xfd", ": byte 5 is not UTF-8"),
    **{kind: (kind, said) for kind, said in NO_FILES.items()},
}
