#!/bin/sh
# Makes .venv from the first suitable Python and installs a requirements file into it.
# usage: deploy/venv.sh requirements.txt
# Needs nothing but a POSIX shell and Python 3.11 or newer. Each thing that can be wrong is said in one line.
set -eu

requirements=$1
venv=${VENV:-.venv}

refuse() {
    echo "$1" >&2
    exit 1
}

# A name on PATH may be a shim for a Python that is not there, so each candidate is run.
answers() {
    "$1" -c "import sys; sys.exit(not ($2))" 2>/dev/null
}

choose_python() {
    recent='' only_newer=''
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        answers "$candidate" 'True' || continue
        recent="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        answers "$candidate" 'sys.version_info >= (3, 11)' || continue
        # The bundled Redis has no wheel for Python 3.13 and later: those need one from outside.
        if answers "$candidate" 'sys.version_info >= (3, 13)' &&
            [ -z "${REDIS_URL:-}${REDIS_URL_FILE:-}" ] && ! command -v redis-server >/dev/null; then
            only_newer=$recent
            continue
        fi
        echo "$candidate"
        return
    done
    [ -z "$only_newer" ] ||
        refuse "Python $only_newer needs redis-server on PATH (Debian: apt install redis-server); Python 3.11 and 3.12 bring their own."
    [ -z "$recent" ] || refuse "Lockstep needs Python 3.11 or newer; this machine has $recent. Set PYTHON to a newer one."
    refuse "Lockstep needs Python 3.11 or newer; none of ${PYTHON:-python3, python3.13, python3.12, python3.11} runs."
}

make_venv() {
    python=$(choose_python)
    answers "$python" '__import__("venv") and __import__("ensurepip")' ||
        refuse "$python has no venv module. Install it (Debian: apt install python3-venv) and try again."
    echo "Making $venv with $("$python" --version) …"
    "$python" -m venv --clear "$venv" >/dev/null || refuse "$python could not make $venv."
}

explain() {
    if grep -Eq "command '?[^ ]*(gcc|cc|g\+\+|clang|cargo|rustc)'? failed|No such file or directory: '?(gcc|cc|make)|Unable to find.*(compiler|Rust)|no acceptable C compiler" "$1"; then
        echo "A package has no wheel for this machine and no compiler is here. Install one (Debian: apt install build-essential python3-dev) and try again." >&2
    elif grep -Eq 'NewConnectionError|Temporary failure in name resolution|ConnectTimeout|Network is unreachable' "$1"; then
        echo "The package index cannot be reached. Check the network, or pip's index and proxy settings." >&2
    else
        echo "pip could not install $requirements; the lines above say why." >&2
    fi
}

# A virtual environment whose Python was removed or upgraded away is made again.
answers "$venv/bin/python" 'sys.version_info >= (3, 11)' && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Installing $requirements …"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --prefer-binary -r "$requirements" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    explain "$log"
    exit 1
fi
