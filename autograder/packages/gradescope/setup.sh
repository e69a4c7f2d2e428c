#!/usr/bin/env bash
# Gradescope runs this once, when the autograder is built: a Python of its own with the pinned packages.
# A failure here is shown to the instructor in the build's output, and nothing is graded with half an environment.
set -euo pipefail

root="${ATTN_GRADESCOPE_ROOT:-/autograder}"
wanted='import sys, ensurepip, venv; sys.exit(sys.version_info[:2] < (3, 11))'

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if command -v "$name" >/dev/null && "$name" -c "$wanted" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

if ! python="$(find_python)"; then
    # Gradescope's images are Ubuntu: 22.04 has Python 3.11 beside its own 3.10, 24.04 has 3.12 and wants its venv module.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends python3.11 python3.11-venv \
        || apt-get install -qq -y --no-install-recommends python3 python3-venv
    if ! python="$(find_python)"; then
        echo "Python 3.11 or newer with its venv module is needed, and this image offers none." >&2
        echo "Choose a newer Ubuntu image under 'Configure Autograder' and upload the zip again." >&2
        exit 1
    fi
fi

"$python" -m venv "$root/venv"
cd "$root/source/grader"
"$root/venv/bin/python" -m pip install --disable-pip-version-check --no-input -c pins.txt -e ".[course]"

# The seed and the solutions are for the grader alone; its code must stay readable where submissions run.
chmod -R go-rwx solutions "$root/source/settings.json"

# The course's own solution, graded once: what is missing, or a sandbox that this image does not allow, shows here and
# not in front of a class. Where it is the sandbox, make the zip with --no-sandbox: each submission has a container.
read -r -a arguments < <("$python" -c '
import json, sys
settings = json.load(open(sys.argv[1]))
print("--chapter", settings["chapter"], *settings["options"])' "$root/source/settings.json")
"$root/venv/bin/attn" grade-one solutions/*/*.ipynb "${arguments[@]}" --format gradescope --out "$root/tried.json"
rm "$root/tried.json"
echo "The autograder is ready."
