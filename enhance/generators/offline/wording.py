"""Names, and sentences in the third person, made of a plugin's own words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from enhance.generators.offline.words import NOUNS_TOO, STOP, VERBS

LONGEST_NAME = 64
_VENDORS = ("claude", "anthropic")
_COMPOUND = re.compile(
    r"\w+(?:tion|ment|er|or|ing|ance|ence|sis|ity|base|set|suite|tool|system|kit|data)\b"
    r"(?=\s*(?:$|[,.:;(]|(?:for|with|of|and|to|in|from|that|using|via|by|across|system|tool|plugin|toolkit|helper|setup|pipeline|manager|builder)\b))"
)
_PERSONS = re.compile(
    r"(?i)\b(?:i|i'm|i'll|i've|me|my|we|we're|we'll|us|our|you|your|yours|you're|you'll|you've|yourself)\b"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`\"'(])")
_EMPHASIS = re.compile(r"(\*\*|__)(.+?)\1")
_SMALL_WORDS = {"and", "or", "of", "the", "for", "to", "in", "on", "with", "a", "an"}
_CAPITALS = {"api": "API", "ai": "AI", "ml": "ML", "sql": "SQL", "roi": "ROI", "nft": "NFT", "mcp": "MCP", "ui": "UI"}
_CAPITALS |= {
    "sdk": "SDK",
    "ci": "CI",
    "cd": "CD",
    "cli": "CLI",
    "aws": "AWS",
    "gpu": "GPU",
    "llm": "LLM",
    "sow": "SOW",
}
_CAPITALS |= {"defi": "DeFi", "dex": "DEX", "graphql": "GraphQL", "grpc": "gRPC", "rest": "REST", "seo": "SEO"}


# Names


def kebab(text: str) -> str:
    """Return letters and digits of ASCII in lower case with single hyphens, at most 64 characters, cut at a word."""
    folded = unicodedata.normalize("NFKD", text[:400])
    text = "".join(char for char in folded if not unicodedata.combining(char))
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "-", text).lower().replace("'", "")
    found = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    if len(found) > LONGEST_NAME:
        found = found[: LONGEST_NAME + 1].rsplit("-", 1)[0][:LONGEST_NAME].strip("-")
    return found


def skill_name(wanted: str, functions: Iterable[str]) -> str:
    """Return a skill's name: what is wanted if it may be one, else words of what the plugin does."""
    own = kebab(wanted)
    if own and not any(vendor in own for vendor in _VENDORS):
        return own
    without = [word for word in own.split("-") if word and not any(vendor in word for vendor in _VENDORS)]
    if len([word for word in without if word not in STOP]) > 1:
        return "-".join(without)
    for text in functions:
        words = [word for word in kebab(text).split("-") if word not in STOP and not any(v in word for v in _VENDORS)]
        if len(words) > 1 or (words and len(words[0]) > 3):
            return kebab("-".join(words[:4]))
    return "-".join(without) or "skill-" + hashlib.sha256(wanted.encode("utf-8", "replace")).hexdigest()[:8]


def title(name: str) -> str:
    """Return a heading for a name in kebab-case."""
    words = re.split(r"[-_\s]+", name.strip())
    return " ".join(
        _CAPITALS.get(word.lower(), word if index and word in _SMALL_WORDS else word[:1].upper() + word[1:])
        for index, word in enumerate(words)
    )


# Sentences


def plain(text: str) -> str:
    """Return text without emphasis, code marks, links and angle brackets, on one line."""
    text = re.sub(r"\[([^\[\]]+)\]\([^()]*\)", r"\1", text)
    text = _EMPHASIS.sub(r"\2", text).replace("`", "").replace("*", "")
    text = re.sub(r"<([\w .|-]{1,40})>", r"\1", text).replace("->", "to").replace("=>", "to")
    text = re.sub(r">=", "at least ", text).replace("<=", "at most ")
    text = re.sub(r">\s*(?=[\d$])", "over ", text)
    text = re.sub(r"<\s*(?=[\d$])", "under ", text)
    return " ".join(text.replace("<", "").replace(">", "").split())


def sentences(text: str) -> list[str]:
    """Cut prose into sentences, as well as punctuation tells."""
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def speaks(text: str) -> bool:
    """Whether a text speaks in the first or second person."""
    return _PERSONS.search(text) is not None


def third_person(text: str) -> str:
    """Turn an order into a statement: "Find and fix leaks" is "Finds and fixes leaks". Other text stays."""
    text = re.sub(r"^(Load|Stress|Unit|Smoke|Fuzz) test (?=\w)", r"\1-test ", text)
    first, _, rest = text.partition(" ")
    if not rest or not is_order(text):
        return text
    prefix, _, stem = first.rstrip(",").rpartition("-")
    lead = (prefix + "-" if prefix else "") + _with_s(stem) + ("," if first.endswith(",") else "")
    return f"{lead} {_further(rest)}" if first.endswith(",") else f"{lead} {_chain(rest)}"


def _further(rest: str) -> str:
    """The rest of "Create, test, and deploy APIs": single verbs up to the one that has an object."""
    words = rest.split(" ")
    for number, word in enumerate(words):
        if _verb(word):
            words[number] = _with_s(word.rstrip(",")) + ("," if word.endswith(",") else "")
            if not word.endswith(",") and (number + 1 == len(words) or words[number + 1] not in {"and", "&"}):
                break
        elif word not in {"and", "&"}:
            break
    return " ".join(words)


def _chain(rest: str) -> str:
    """What follows the first verb: "and" with another verb, and clauses after commas if each is an order."""
    head = re.match(r"(and|&) ([a-z-]+)( .+)$", rest)
    if head and _verb(head[2]):
        return f"{head[1]} {_with_s(head[2])}{head[3]}"
    parts = re.split(r"(,\s+(?:and\s+)?)", rest)
    if len(parts) > 2 and all(" " in part and is_order(part) for part in parts[2::2]):
        for number in range(2, len(parts), 2):
            word, _, object_ = parts[number].partition(" ")
            parts[number] = f"{_with_s(word)} {object_}"
        return "".join(parts)
    found = re.search(r" and ([a-z]+) (?=\w)", rest)
    if found and found[1] in VERBS - NOUNS_TOO and "," not in rest[: found.start()]:
        return f"{rest[: found.start(1)]}{_with_s(found[1])}{rest[found.end(1) :]}"
    return rest


def _verb(word: str) -> bool:
    return word.strip(",").lower() in VERBS


def _with_s(verb: str) -> str:
    if re.search(r"(?:s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def is_order(text: str) -> bool:
    """Whether a text begins with a verb: "Track prices", not "Price tracking" nor "Log aggregation"."""
    first, _, rest = text.partition(" ")
    stem = first.rstrip(",").rpartition("-")[2].lower()
    if stem not in VERBS:
        return False
    return stem not in NOUNS_TOO or not (_COMPOUND.match(rest) or not rest)


def is_statement(word: str) -> bool:
    """Whether a word is a verb in the third person: "exceeds", "tries"."""
    return word.endswith("s") and any(stem in VERBS - NOUNS_TOO for stem in (word[:-1], word[:-2], word[:-3] + "y"))


def lowered(text: str) -> str:
    """Return text with a small first letter, unless its first word is a name or abbreviation."""
    first = text.split(" ", 1)[0]
    return text if sum(char.isupper() for char in first) > 1 or first[1:2].isdigit() else text[:1].lower() + text[1:]


def small(text: str) -> str:
    """Write a phrase in title case small: "Network Health" is "network health". Names in odd case stay."""
    words = text.split()
    long = [word for word in words if len(word) > 3]
    if len(words) > 1 and long and all(word[0].isupper() or not word[0].isalpha() for word in long):
        return " ".join(
            word.lower() if re.fullmatch(r"[A-Z][a-z]+[,;]?|[A-Z][a-z]+-[A-Z]?[a-z]+", word) else word for word in words
        )
    return text


def joined(items: list[str], word: str) -> str:
    """Return "a, b, or c"; with semicolons where the items hold commas."""
    if len(items) < 2:
        return "".join(items)
    mark = ";" if any("," in item for item in items) else ","
    return f"{mark} ".join(items[:-1]) + (f"{mark} " if len(items) > 2 or mark == ";" else " ") + f"{word} {items[-1]}"


def shingles(text: str, width: int = 4) -> set[tuple[str, ...]]:
    """Return every run of `width` words, in small letters."""
    words = re.findall(r"\w+", text.lower())
    if len(words) <= width:
        return {tuple(words)} if words else set()
    return {tuple(words[at : at + width]) for at in range(len(words) - width + 1)}
