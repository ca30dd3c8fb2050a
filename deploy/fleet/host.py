"""One host: preflight, drain, swap, restart, watch it rejoin, put the old build back.

Owns everything that happens over SSH. Decides nothing about the fleet: which host is next, and whether
there is a next, is deploy/rollout's. Every step either succeeds or raises StepFailed, which says what was
attempted, where, and what the host answered. Nothing is ever killed by name.
"""

import io, json, os, shlex, subprocess, tarfile, threading, time
from dataclasses import dataclass
from pathlib import Path

from fleet.inventory import BINARIES

DEPLOY = Path(__file__).resolve().parent.parent
SSH = shlex.split(os.environ.get("ROLLOUT_SSH", "ssh"))
SSH_OPTIONS = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"]
printing = threading.Lock()


class StepFailed(Exception):
    """One step on one host failed; the text says which and shows what the host said."""


def say(who, text):
    with printing:
        print(f"{time.strftime('%H:%M:%S')}  {who:<14} {text}", flush=True)


def remote(host, what, script, stdin=b"", timeout=60):
    """Runs `script` with sh on the host and returns its output, or raises StepFailed saying `what`."""
    command = f"{host.become} sh -c {shlex.quote('set -eu; ' + script)}".strip()
    argv = [*SSH, *SSH_OPTIONS, *shlex.split(host.ssh), host.target, command]
    try:
        # Own session: Ctrl-C is for this program to answer, not for a half-done swap on a host.
        done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=timeout, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise StepFailed(f"{what}: no answer from {host.target} in {timeout} s")
    except OSError as error:
        raise StepFailed(f"{what}: cannot run {SSH[0]}: {error}")
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()[-600:] or "(it said nothing)"
        raise StepFailed(f"{what}: exit {done.returncode} on {host.target}: {said}")
    return done.stdout.decode(errors="replace")


def hearth(host, arguments, what):
    return remote(host, what, f"{host.path('hearth')} --socket {shlex.quote(host.socket)} {arguments}", timeout=20)


@dataclass(frozen=True)
class Seen:
    """A host as another host's agent sees it."""

    state: str = "unknown"
    generation: int = -1
    fit: frozenset = frozenset()      # endpoints that serve or stand by
    serving: frozenset = frozenset()


def members(host):
    """The mesh as this host's agent sees it: {name: Seen}."""
    view = {}
    for row in json.loads(hearth(host, "members -o json", "asking for the members")):
        # A warm endpoint that stands by is out of the route, and just what it should be.
        usable = [end for end in row["endpoints"] if end["standing"] != "out" or end["condition"] == "standby"]
        view[row["node"]] = Seen(
            row["state"], row["generation"],
            frozenset(end["endpoint"] for end in usable if end["condition"] in ("serving", "standby")),
            frozenset(end["endpoint"] for end in row["endpoints"] if end["condition"] == "serving"))
    return view


def views(observers, wanted=2):
    """What the first `wanted` observers that answer see. One may be wrong; two rarely in the same way."""
    seen = []
    for observer in observers:
        try:
            seen.append(members(observer))
        except (StepFailed, ValueError, KeyError, TypeError):
            continue
        if len(seen) == wanted:
            break
    return seen


# ---- preflight: nothing that runs is changed ----


def staged(host, build, binary):
    return f"{host.path(binary)}.staged-{build.id}"  # same directory: the swap is one rename


def preflight(host, build):
    """Uploads the new binaries beside the old ones and lets the new one judge the host's configuration."""
    directory = shlex.quote(os.path.dirname(host.path("hearth")))
    facts = remote(host, "preflight", f"""
        mkdir -p {directory}; cd {directory}
        for old in hearth*.staged-*; do case $old in *-{build.id}) ;; *) rm -f "$old" ;; esac; done
        uname -m
        df -Pk . | awk 'NR == 2 {{ print $4 }}'
        if [ -e hearth-agent ] && [ -e hearth ]; then sha256sum {' '.join(BINARIES)}; ./hearth-agent version || true; fi
        """).splitlines()
    if build.arch and facts[0] != build.arch:
        raise StepFailed(f"preflight: the host is {facts[0]}, the build is {build.arch}")
    size = sum(path.stat().st_size for path, _ in build.files.values())
    if int(facts[1]) * 1024 < 2 * size:  # staged now, and room for one more beside the previous
        raise StepFailed(f"preflight: {facts[1]} KiB free in {directory}, {2 * size // 1024} KiB needed")
    host.installed = " ".join(line.split()[0] for line in facts[2:4])
    for binary, (path, digest) in build.files.items():
        upload(host, path, digest, staged(host, build, binary))
    check_config(host, build)
    now = " ".join(facts[4:5]) or "nothing"
    new = remote(host, "running the new binary", f"{staged(host, build, 'hearth-agent')} version").strip()
    say(host.name, f"preflight ok: {facts[0]}, {int(facts[1]) // 1024} MiB free, has {now}, gets {new}")


def upload(host, path, digest, destination):
    there = remote(host, "preflight", f"sha256sum {destination} 2>/dev/null || true").split()
    if there[:1] == [digest]:
        return
    remote(host, f"uploading {path.name}", f"""
        cat >{destination}.part
        echo '{digest}  {destination}.part' | sha256sum -c >/dev/null
        chmod 755 {destination}.part; sync; mv -f {destination}.part {destination}
        """, stdin=path.read_bytes(), timeout=600)


def check_config(host, build):
    agent, config = staged(host, build, "hearth-agent"), shlex.quote(host.config)
    if remote(host, "preflight", f"if [ -e {config} ]; then echo yes; fi").strip():
        remote(host, "checking the configuration with the new build", f"{agent} check --config {config}")
    elif host.installed or not host.agent_toml:
        raise StepFailed(f"preflight: no {host.config} on the host and no agent_toml= in the inventory")
    else:
        remote(host, f"checking {host.agent_toml} with the new build",
               f"file=$(mktemp); trap 'rm -f $file' EXIT; cat >$file; {agent} check --config $file",
               stdin=Path(host.agent_toml).read_bytes())


# ---- the change ----


def update(host, build, observers, steady, timeout):
    """Drain, swap, restart, watch; on failure the old build comes back. True if the host has the new one."""
    try:
        if host.generation >= 0:
            drain(host, observers)
        if host.installed:
            swap(host, build)
        else:
            first_install(host, build)
        remote(host, "restarting", host.restart, timeout=timeout)
        watch(host, observers, steady, timeout)
        remote(host, "verifying", host.verify, timeout=timeout)
        host.installed = build.digest
        return True
    except StepFailed as error:
        say(host.name, f"FAILED {error}")
        roll_back(host, build, observers, steady, timeout)
        return False


def drain(host, observers):
    hearth(host, "drain", "draining")
    deadline = time.monotonic() + 15
    while any(view.get(host.name, Seen()).serving for view in views(observers)):
        if time.monotonic() > deadline:
            raise StepFailed("draining: after 15 s others still see endpoints of it serving")
        time.sleep(0.5)
    time.sleep(float(host.drain_wait))
    say(host.name, "drained")


def swap(host, build):
    script = ""
    for binary in BINARIES:
        path, new, digest = host.path(binary), staged(host, build, binary), build.files[binary][1]
        # An interrupted run may have swapped already: then NAME.previous is the build to keep.
        script += (f"if ! echo '{digest}  {path}' | sha256sum -c >/dev/null 2>&1; then "
                   f"ln -f {path} {path}.previous; mv -f {new} {path}; fi; rm -f {new}; ")
    remote(host, "swapping the binaries", script + "sync")
    say(host.name, f"swapped to build {build.id}")


def first_install(host, build):
    """Hands deploy/install and what it needs to a host that has no Hearth yet."""
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w:gz") as tar:
        for name in ("install", "systemd", "agent.example.toml"):
            tar.add(DEPLOY / name, name)
        if host.agent_toml:
            tar.add(host.agent_toml, "agent.toml")
    moves = "; ".join(f"mv {staged(host, build, binary)} $dir/{binary}" for binary in BINARIES)
    config = "--config $dir/agent.toml" if host.agent_toml else ""
    prefix = f"--prefix {host.prefix}" if host.prefix else ""
    remote(host, "installing", f"dir=$(mktemp -d); trap 'rm -rf $dir' EXIT; tar -xzf - -C $dir; {moves}; "
           f"$dir/install --build $dir --name {host.name} {config} {prefix} {host.install}", bundle.getvalue())
    say(host.name, f"installed build {build.id}")


def watch(host, observers, steady, timeout):
    """Waits until all observers have seen the host alive in one new generation, offering what it offered
    before, for `steady` seconds on end."""
    deadline = time.monotonic() + timeout + steady
    since, newest, before, looks = None, -1, host.generation, []
    while time.monotonic() < deadline:
        looks = [view.get(host.name, Seen()) for view in views(observers)]
        was, newest = newest, max((look.generation for look in looks), default=-1)
        host.generation = max(host.generation, newest)
        good = [look.state == "alive" and look.generation == newest and host.offers <= look.fit for look in looks]
        if newest <= before or not good or not all(good):
            since = None
        elif since is None or newest != was:  # a restart in between starts the clock again
            since = time.monotonic()
        elif time.monotonic() - since >= steady:
            say(host.name, f"steady in the mesh for {steady:g} s: generation {newest}, seen by {len(looks)} other(s)")
            return
        time.sleep(min(1.0, max(steady / 4, 0.1)))
    lacks = sorted(host.offers.difference(*(look.fit for look in looks)))
    seen = "; ".join(f"{look.state} in generation {look.generation} (was {before})" for look in looks)
    raise StepFailed(f"watching it rejoin: not steady within {timeout + steady:g} s; last seen: "
                     f"{seen or 'nobody to ask answered'}{'; not fit: ' + ', '.join(lacks) if lacks else ''}")


def roll_back(host, build, observers, steady, timeout):
    """Undoes what `update` did, as far as it came."""
    restore = "rm -f " + " ".join(staged(host, build, binary) for binary in BINARIES)
    for binary in BINARIES:
        path, digest = host.path(binary), build.files[binary][1]
        restore += (f"; if echo '{digest}  {path}' | sha256sum -c >/dev/null 2>&1 && [ -e {path}.previous ]; then "
                    f"ln -f {path}.previous {path}.back; mv -f {path}.back {path}; echo restored; fi")
    try:
        if not host.installed:
            paths = " ".join(map(host.path, BINARIES))
            remote(host, "stopping the failed first install", f"{host.stop} || true; rm -f {paths}", timeout=timeout)
            say(host.name, "stopped and its binaries removed again; configuration and state stay")
        elif remote(host, "putting the old build back", restore):
            remote(host, "restarting the old build", host.restart, timeout=timeout)
            if host.generation >= 0:
                watch(host, observers, steady, timeout)
            say(host.name, "rolled back")
        else:
            hearth(host, "drain --off", "ending the drain")
            say(host.name, "nothing was swapped yet; no longer draining")
    except StepFailed as error:
        say(host.name, f"ROLL BACK FAILED, this host needs a person: {error}")
