"""What is rolled out where: the inventory file and the build. Reads local files only, talks to no host.

Inventory, one host per line, `#` comments, shell quoting; `default` lines hold for all hosts below them:

    default restart="systemctl restart hearth-agent" agent_toml=conf/{name}.toml
    web-1   root@192.0.2.11
    web-2   admin@192.0.2.12   become="sudo -n" ssh="-p 2222"

Keys (all optional; {name} and {prefix} are filled in):
    ssh         more options for ssh
    become      put before `sh -c ...` on the host, e.g. "sudo -n"
    prefix      Hearth lives under this directory instead of /
    config      agent configuration           [{prefix}/etc/hearth/agent.toml]
    socket      agent admin socket            [/run/hearth/agent.sock]
    restart     (re)starts the agent          [systemctl restart hearth-agent]
    stop        stops it (failed first install) [systemctl stop hearth-agent]
    verify      must succeed after the restart [{prefix}/usr/bin/hearth --socket {socket} status]
    drain_wait  seconds for requests in flight once all see it draining [5]
    agent_toml  local file that becomes `config` on a host that has none yet
    install     more arguments for deploy/install on a host without Hearth, e.g. --no-systemd

The name is the node's name in the mesh.
"""

import hashlib, shlex, struct
from dataclasses import dataclass, field
from pathlib import Path

BINARIES = ("hearth-agent", "hearth")
DEFAULTS = {
    "ssh": "", "become": "", "prefix": "", "drain_wait": "5", "agent_toml": "", "install": "",
    "config": "{prefix}/etc/hearth/agent.toml", "socket": "/run/hearth/agent.sock",
    "restart": "systemctl restart hearth-agent", "stop": "systemctl stop hearth-agent",
    "verify": "{prefix}/usr/bin/hearth --socket {socket} status",
}
ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


class Refused(Exception):
    """Stops the program with an exit code; nothing was changed."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


@dataclass
class Host:
    name: str
    target: str
    keys: dict
    # Found by preflight:
    installed: str = ""      # digest of the installed build, "" = none
    generation: int = -1     # newest the mesh has seen; -1 = not in the mesh
    offers: frozenset = frozenset()  # its endpoints that were fit before it was touched

    def __getattr__(self, key):
        if key not in DEFAULTS:
            raise AttributeError(key)
        value = self.keys[key]
        for _ in range(2):  # a value may name {socket} or {prefix}, whose value names {name}
            for other in ("name", "prefix", "socket"):
                value = value.replace("{%s}" % other, self.name if other == "name" else self.keys[other])
        return value

    def path(self, binary):
        return f"{self.prefix}/usr/bin/{binary}"


def read_inventory(path):
    hosts, defaults = [], dict(DEFAULTS)
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise Refused(65, f"{path}:{number}: {error}")
        if not words:
            continue
        pairs = words[1:] if words[0] == "default" else words[2:]
        keys = dict(pair.partition("=")[::2] for pair in pairs)
        for key in keys:
            if key not in DEFAULTS:
                raise Refused(65, f"{path}:{number}: unknown key '{key}'; known: {', '.join(DEFAULTS)}")
        if words[0] == "default":
            defaults.update(keys)
        elif len(words) < 2 or "=" in words[1]:
            raise Refused(65, f"{path}:{number}: expected `name ssh-target key=value...`")
        elif words[0] in (host.name for host in hosts):
            raise Refused(65, f"{path}:{number}: host '{words[0]}' is named twice")
        else:
            hosts.append(Host(words[0], words[1], defaults | keys))
    if not hosts:
        raise Refused(65, f"{path}: no hosts")
    return hosts


@dataclass
class Build:
    files: dict = field(default_factory=dict)    # name -> (path, sha256)
    arch: str = ""                               # "" = runs anywhere (a script)

    @property
    def digest(self):
        return " ".join(self.files[name][1] for name in BINARIES)

    @property
    def id(self):
        return hashlib.sha256(self.digest.encode()).hexdigest()[:12]


def read_build(directory):
    build = Build()
    for name in BINARIES:
        path = Path(directory) / name
        if not path.is_file():
            raise Refused(64, f"{path}: no such file; build it, or name its directory with --build")
        content = path.read_bytes()
        build.files[name] = (path, hashlib.sha256(content).hexdigest())
        if content[:4] == b"\x7fELF":
            machine = struct.unpack("<H", content[18:20])[0]
            build.arch = ELF_MACHINES.get(machine, f"ELF machine {machine}")
    return build
