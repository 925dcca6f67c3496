"""What terraform does in the chaos: built-in resources that print numbered lines, take their time and sometimes fail.

Each resource appends a line to the world file when it is really created, so that what happened can be told from what
Lockstep says. The line begins with terraform's working directory, whose path names the phase and its attempt.
"""

from __future__ import annotations

import io
import random
import tarfile
from dataclasses import dataclass

#: The header of a configuration; `wait` is answered by the driver after so many seconds, which makes the plan slow.
_HEAD = """
data "terraform_remote_state" "slow" {{
  backend = "http"
  config  = {{ address = "{waits}/{wait}", retry_max = 3 }}
}}
output "lines_{nonce}" {{
  value = [for n in range(1, {outputs} + 1) : "output {nonce} $${{n}} of {outputs}"]
}}
""".replace("$${{", "${{")

_RESOURCE = """
resource "terraform_data" "{name}" {{
  triggers_replace = "{nonce}"
  {after}
  provisioner "local-exec" {{
    command = <<-EOT
      echo "$PWD {nonce} {name} $PPID" >> '{world}'
      n=1
      while [ $n -le {lines} ]; do echo "line {nonce} {name} $n of {lines}."; n=$((n+1)); {pause}; done
      {end}
    EOT
  }}
}}
"""


@dataclass(frozen=True)
class Place:
    """Where configurations write to and wait: the world file, and the URL that answers after some seconds."""

    world: str
    waits: str


#: How many lines a resource prints, and what it does between two of them.
_KINDS = {
    "quick": (10, ":"),
    "slow": (30, "sleep 0.1"),
    "burst": (400, ":"),
    "silent": (3, "sleep 1.5"),
    "long": (80, "sleep 0.5"),  # a worker that is lost is replaced meanwhile
}


def make(chance: random.Random, nonce: str, place: Place) -> str:
    """One main.tf: three to five resources, some one after another, from a second to a minute or two."""
    wait = chance.choice((0, 0, 0, 1, 3, 6))
    text = _HEAD.format(waits=place.waits, wait=wait, nonce=nonce, outputs=chance.choice((5, 40)))
    before = ""
    for number in range(chance.randint(3, 5)):
        name = f"r{number}"
        after = f"depends_on = [terraform_data.{before}]" if before and chance.random() < 0.7 else ""
        kind = chance.choice(
            ("quick", "slow", "slow", "slow", "burst", "silent", "long") if number else ("quick", "slow")
        )
        lines, pause = _KINDS[kind]
        # The keys are printed so that they have to be hidden, by a worker that took over, too.
        end = 'echo "keys $AWS_SECRET_ACCESS_KEY $AWS_SESSION_TOKEN"' if chance.random() < 0.4 else ":"
        end = "exit 3" if chance.random() < 0.05 else end
        text += _RESOURCE.format(
            name=name, nonce=nonce, after=after, world=place.world, lines=lines, pause=pause, end=end
        )
        before = name
    return text


def pack(text: str) -> bytes:
    """A .tar.gz with one main.tf."""
    packed, content = io.BytesIO(), text.encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("main.tf")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
