"""Exit codes are unique, documented, and what scripts were promised."""

from __future__ import annotations

from pathlib import Path

from drkit.cli.reference import error_classes, exit_codes

DOCS = Path(__file__).parent.parent / "docs"


def test_the_document_is_current() -> None:
    text = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    assert text == exit_codes(), "run 'python -m drkit.cli.reference'"


def test_each_code_has_one_owner() -> None:
    owners = [error for error in error_classes() if "code" in vars(error)]
    assert len({error.code for error in owners}) == len(owners)


def test_the_codes_are_those_of_the_contract() -> None:
    codes = {error.__name__: error.code for error in error_classes() if "code" in vars(error)}
    assert codes == {
        "DrkitError": 1,
        "UsageError": 2,
        "PartialError": 3,
        "RepositoryNotFound": 10,
        "LockedError": 11,
        "WrongKey": 12,
        "StoreError": 13,
        "IntegrityError": 20,
        "RestoreMismatch": 21,
        "DrillFailed": 22,
        "GuardRefused": 30,
        "ProposalRejected": 31,
        "BudgetExhausted": 32,
    }


def test_every_error_says_what_to_do_next() -> None:
    for error in error_classes():
        assert error("x").hint
        assert error("x", hint="y").hint == "y"
