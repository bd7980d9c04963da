# Sourced by the scripts beside it: where the checkout is, which Python to take, and a virtual environment in .venv.
# shellcheck shell=bash

unset CDPATH
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Print the first Python that is new enough and can make virtual environments. $PYTHON is asked first.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer with its venv module was found: install one (on Debian and Ubuntu also" \
        "python3-venv), or name one with PYTHON=/path/to/python3.12 $0"
}

# Keep of pip's settings what says where packages come from; drop those that would install elsewhere or not at all.
clean_environment() {
    local name
    unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
    for name in $(compgen -e PIP_); do
        case $name in
            PIP_*INDEX* | PIP_FIND_LINKS | PIP_TRUSTED_HOST | PIP_*CERT | PIP_PROXY | PIP_*TIMEOUT | PIP_RETRIES) ;;
            PIP_*CACHE* | PIP_CONFIG_FILE | PIP_*CONSTRAINT | PIP_*BINARY | PIP_KEYRING_PROVIDER) ;;
            *) unset "$name" ;;
        esac
    done
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
}

# Print the requirements of the dependency group `dev`: pip itself reads groups only since 25.1.
dev_requirements() {
    "$VENV/bin/python" - "$ROOT/pyproject.toml" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]

def requirements(name):
    for item in groups[name]:
        yield from [item] if isinstance(item, str) else requirements(item["include-group"])

print("\n".join(requirements("dev")))
PYTHON
}

# Make $VENV, with what the function $1 installs. One that was finished for the same pyproject.toml in the same place is
# used as it is; anything else, also one whose making was interrupted, is made anew.
ensure_venv() {
    local install=$1 stamp=$VENV/.finished wanted python
    clean_environment
    if command -v flock >/dev/null; then
        exec 9<"$ROOT"
        flock 9 || true
    fi
    wanted=$(printf '%s\n' "$ROOT" "${PYTHON:-}" && cat -- "$ROOT/pyproject.toml")
    if [[ $(cat -- "$stamp" 2>/dev/null) != "$wanted" ]] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
        python=$(find_python)
        say "making ${VENV##*/} with $("$python" --version) ($python)"
        rm -rf -- "$VENV"
        "$python" -m venv -- "$VENV"
        say "installing into it (up to a minute, only when pyproject.toml has changed)"
        (cd -- "$ROOT" && "$install")
        printf '%s\n' "$wanted" >"$stamp"
    fi
    # As an installation has it, even where PYTHONDONTWRITEBYTECODE is set: without it each start compiles everything.
    "$VENV/bin/python" -m compileall -q "$ROOT/drkit" "$ROOT/enhance" || true
    exec 9<&-
}

# For ensure_venv: drkit as it stands in the checkout, and the tools of the checks.
install_for_tests() {
    dev_requirements >"$VENV/dev-requirements.txt"
    "$VENV/bin/python" -m pip install --quiet -e '.[all]' -r "$VENV/dev-requirements.txt"
}
