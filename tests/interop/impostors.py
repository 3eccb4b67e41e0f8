"""Tries to be somebody else to the Workload API without any race: by mounts, cgroups, namespaces and shared file descriptors.

Each trick is played by a process of a known user, alone; it must get its own identity, or none. A container engine is played here too:
it knows the containers this program makes by putting processes into cgroups.

Needs root and only Python's standard library. Prints one JSON line: what each trick got, `"skipped"` if this machine does not let it be
played. Ends with 1 if any got what is not its own.
"""

import argparse
import ctypes
import datetime
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import uuid

from pid_reuse import LAST_PID, REQUEST, USERS, answer, become, fork, programs, sleep_forever

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_FILES, CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWCGROUP = 0x400, 0x10000000, 0x20000, 0x02000000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
SYS_SETRESUID, SYS_SETRESGID = {"x86_64": (117, 119), "aarch64": (147, 149)}[os.uname().machine]
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_DUMPABLE = 4
LABEL = {"who": "victim"}
# For so long the engine takes a container for alive that is not.
LAG = 0.3
# Its users have no identity, except that one of them is the labelled container's.
NOBODY, ONE, TWO = 20003, 20001, 20002
POD = "pod0f4c1b2a-7d1e-4c7e-9b0e-3a1f5d2c6b7a"


class Skipped(Exception):
    """This machine does not let the trick be played."""


def check(result, what):
    if result == -1:
        raise Skipped(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def unshare(flags):
    check(LIBC.unshare(flags), "unshare")


def mount(source, target, kind=None, flags=0):
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    check(LIBC.mount(*encoded, ctypes.c_ulong(flags), None), f"mount on {target}")


def private_mounts():
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def become_root_of_a_namespace(flags=0):
    user, group = os.getuid(), os.getgid()
    check(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")  # whoever changed users may not write to its own /proc otherwise
    unshare(CLONE_NEWUSER | flags)
    for name, value in [("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")]:
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(value)


class Stage:
    """The socket, what is known of the answers, and what must be cleaned up."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.children = []
        self.cgroups = []
        self.containers = {}
        self.started = {}
        self.ended = {}
        self.programs = programs(arguments.folder)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.arguments.socket)
        return connection

    def paths(self, data):
        known = [path for path in USERS.values() if path] + ["/victim"]
        prefix = f"spiffe://{self.arguments.trust_domain}"
        return sorted(path for path in known if f"{prefix}{path}".encode() in (data or b""))

    def ask(self, connection):
        try:
            connection.sendall(REQUEST)
        except OSError:
            return []
        return self.receive(connection)

    def receive(self, connection):
        try:
            return self.paths(answer(connection, 15))
        except OSError:
            return []

    def call(self):
        with self.connect() as connection:
            return self.ask(connection)

    def played(self, trick, user=None):
        """Plays `trick` in a process of `user`: all that it got, or why it could not be played."""
        ours, theirs = os.pipe()

        def play():
            os.close(ours)
            try:
                got = trick()
            except (Skipped, PermissionError) as reason:
                got = f"skipped: {reason}"
            os.write(theirs, json.dumps(got).encode())

        child = fork(play, user)
        os.close(theirs)
        with open(ours, "rb") as pipe:
            got = pipe.read()
        os.waitpid(child, 0)
        return json.loads(got) if got else "skipped: the process ended early"

    def close(self):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        deadline = time.monotonic() + 5
        for path in reversed(self.cgroups):
            while os.path.isdir(path) and time.monotonic() < deadline:
                try:
                    os.rmdir(path)
                except OSError:
                    time.sleep(0.01)

    # Cgroups and containers.

    def make_cgroup(self, path, owner=None):
        """All directories down to `path` below the hierarchy's root; the last belongs to `owner`, who may move processes into it."""
        here = self.arguments.hierarchy
        for name in path.strip("/").split("/"):
            here = os.path.join(here, name)
            if not os.path.isdir(here):
                try:
                    os.mkdir(here)
                except OSError as error:
                    raise Skipped(f"mkdir {here}: {error.strerror}") from error
                self.cgroups.append(here)
        if owner is not None:
            for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]:
                if os.path.exists(os.path.join(here, name)):
                    os.chown(os.path.join(here, name), owner, owner)
        return here

    def enter(self, cgroup):
        try:
            with open(os.path.join(cgroup, "cgroup.procs"), "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            raise Skipped(f"enter {cgroup}: {error.strerror}") from error

    def start_container(self, path, identity):
        cgroup = self.make_cgroup(path)

        def run():
            self.enter(cgroup)
            become(NOBODY)
            sleep_forever()

        child = fork(run)
        self.children.append(child)
        self.containers[identity] = child
        self.started[identity] = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        name = os.path.basename(cgroup)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with open(f"/proc/{child}/cgroup", encoding="ascii") as file:
                if name in file.read():
                    return cgroup
            time.sleep(0.001)
        raise Skipped("the container did not start")

    def call_from(self, cgroup):
        def play():
            self.enter(cgroup)
            become(NOBODY)
            return self.call()

        return self.played(play)


def serve_engine(stage, path):
    """As much of Docker's API as the agent asks for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            words = self.path.strip("/").split("/")
            pid = stage.containers.get(words[-2]) if words[-3:-2] == ["containers"] else None
            body = {"message": "No such container"}
            # As an engine does that learns of an end a moment after the kernel has given the number away.
            late = time.monotonic() - stage.ended.get(words[-2] if pid else "", time.monotonic()) > LAG
            if pid:
                state = {"Pid": 0 if late else pid, "Running": not late, "StartedAt": stage.started[words[-2]]}
                pid = 1
                body = {"Id": words[-2], "State": state, "Image": "sha256:00", "Config": {"Image": "victim", "Labels": LABEL}}
            elif "images" in words:
                pid, body = 1, {"Id": "sha256:00"}
            text = json.dumps(body).encode()
            self.send_response(200 if pid else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def address_string(self):
            return "agent"

        def log_message(self, *_):
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    server = Server(path, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


# The tricks. Each gives what it got, and who may get what is in the table below.


def hides_proc(stage):
    private_mounts()
    mount("tmpfs", "/proc", "tmpfs")
    return stage.call()


def shows_another_proc(stage):
    private_mounts()
    own, other = f"/proc/{os.getpid()}", f"/proc/{stage.victim}"
    mount(other, own, None, MS_BIND)
    mount(f"{other}/status", "/proc/self/status", None, MS_BIND)
    got = stage.call()
    mount("/proc", "/proc", None, MS_BIND | MS_REC)
    mount(other, own, None, MS_BIND)
    return got + stage.call()


def shows_another_proc_as_nobody_in_particular(stage):
    become_root_of_a_namespace(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount(f"/proc/{stage.victim}", f"/proc/{os.getpid()}", None, MS_BIND)
    return stage.call()


def call_from_a_namespace(stage):
    """Where its own path is hidden from it."""
    become_root_of_a_namespace(CLONE_NEWCGROUP)
    return stage.call()


def forges_cgroups(stage):
    got, made = [], 0
    for name in [
        f"docker-{stage.container}.scope",
        f"docker/{stage.container}",
        f"{stage.container}",
        f"libpod-{stage.container}.scope",
        f"libpod-{stage.container}.scope/container",
        f"cri-containerd-{stage.container}.scope",
        f"kubepods/{POD}/{stage.container}",
        f"0::/docker/{stage.container}",
        f"x:cpu:/docker/{stage.container}",
        f"x\n0::/docker/{stage.container}",
        f"x\\n0::/docker/{stage.container}",
        f"docker-{stage.container}.scope (deleted)",
        f"..:docker:{stage.container}",
    ]:
        here = stage.delegated
        try:
            for part in name.split("/"):
                here = os.path.join(here, part) if part else here
                os.makedirs(here, exist_ok=True)
            stage.enter(here)
        except (OSError, Skipped):
            continue  # the kernel knows no such name
        made += 1
        got += stage.call()
        hidden = stage.played(lambda: call_from_a_namespace(stage))
        got += hidden if isinstance(hidden, list) else []
    if made < 5:
        raise Skipped(f"only {made} cgroups could be made")
    return got


def forges_mountinfo(stage):
    """In no cgroup that tells anything, with mounts that claim one."""
    for root in stage.arguments.roots:
        try:
            stage.enter(root)
        except Skipped:
            pass  # not every hierarchy lets processes come and go
    private_mounts()
    target = os.path.join(stage.arguments.folder, "forged")
    os.makedirs(target, exist_ok=True)
    mount(stage.victims_cgroup, target, None, MS_BIND)
    mount(stage.victims_cgroup, stage.arguments.hierarchy, None, MS_BIND)
    become(ONE)
    return stage.call()


def cannot_be_dumped(stage):
    with stage.connect() as connection:
        check(LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
        return stage.ask(connection) + stage.call()


def maps_itself_to_root(stage):
    with stage.connect() as connection:
        become_root_of_a_namespace()
        return stage.ask(connection) + stage.call()


def changes_its_group(stage):
    with stage.connect() as connection:
        os.setresgid(TWO, TWO, TWO)
        return stage.ask(connection)


def changes_its_user_behind_a_thread(stage):
    """Users belong to threads: one of another user than its process connects."""
    got = []

    def thread():
        LIBC.syscall(SYS_SETRESGID, TWO, TWO, TWO)
        LIBC.syscall(SYS_SETRESUID, TWO, TWO, TWO)
        got.extend(stage.call())

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    return got


def executes(stage, user, early):
    """Connects, and executes a program that is set-user-id of `user` from a thread; the socket goes along to who asks."""
    ours, theirs = socket.socketpair()

    def run():
        connection = stage.connect()
        socket.send_fds(theirs, [b"x"], [connection.fileno()])
        os.set_inheritable(connection.fileno(), True)
        thread = threading.Thread(target=lambda: os.execv(stage.programs[user], ["sleep", "1000"]))
        thread.start()
        thread.join()

    child = fork(run)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    with socket.socket(fileno=descriptors[0]) as connection:
        if not early:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                with open(f"/proc/{child}/comm", encoding="ascii") as file:
                    if file.read().startswith("sleep"):
                        break
        got = stage.ask(connection)
    subprocess.run(["kill", "-9", str(child)], check=False, stderr=subprocess.DEVNULL)
    return got


def shares_files(stage, asks):
    """A child of another user with the same table of files connects; its parent, or the child once it has executed, asks."""
    ready, go = os.pipe()
    connection = socket.socket(socket.AF_UNIX)
    child = LIBC.syscall(SYS_CLONE, CLONE_FILES | signal.SIGCHLD, None, None, None, None)
    if child == 0:
        try:
            become(TWO)
            connection.connect(stage.arguments.socket)
            os.write(go, b"x")
            if asks == "its parent, after it has ended":
                os._exit(0)
            time.sleep(30)
        finally:
            os._exit(0)
    os.read(ready, 1)
    if asks == "its parent, after it has ended":
        os.waitpid(child, 0)
    got = stage.ask(connection)
    if asks == "its parent":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return got


def takes_the_pid_of_a_container(stage):
    """While the engine still names it, in a cgroup of that container's name, made in a subtree of one's own."""
    for _ in range(10):
        identity = uuid.uuid4().hex * 2
        stage.start_container(f"docker/{identity}", identity)
        container = stage.children.pop()
        forged = stage.make_cgroup(f"{stage.own}/docker-{identity}.scope", ONE)
        ours, theirs = os.pipe()

        def impostor():
            stage.enter(forged)
            become(ONE)
            os.write(theirs, b"x")
            sleep_forever()

        time.sleep(0.2)  # as a container does that was worth starting
        os.kill(container, signal.SIGKILL)
        os.waitpid(container, 0)
        stage.ended[identity] = time.monotonic()
        with open(LAST_PID, "w", encoding="ascii") as file:
            file.write(str(container - 1))
        stage.children.append(fork(impostor))
        if stage.children[-1] == container:
            os.read(ours, 1)

            def ask():
                stage.enter(forged)
                become(ONE)
                return stage.call()

            return stage.played(ask)
    return "skipped: no PID was recycled"


def tricks(stage):
    """Name, what is played, as whom, and what it may get at most; the last tells whether it must."""
    two = stage.victim
    assert two
    forged = stage.container
    yield "hides /proc", lambda: hides_proc(stage), 0, ["/root"], True
    yield "shows another's /proc", lambda: shows_another_proc(stage), 0, ["/root"], True
    yield "shows another's /proc in a user namespace", lambda: shows_another_proc_as_nobody_in_particular(stage), ONE, ["/one"], True
    yield "cannot be dumped", lambda: cannot_be_dumped(stage), ONE, ["/one"], True
    yield "maps itself to root", lambda: maps_itself_to_root(stage), ONE, ["/one"], True
    yield "changes its group", lambda: changes_its_group(stage), 0, ["/root"], False
    yield "has a thread of another user", lambda: changes_its_user_behind_a_thread(stage), 0, ["/two"], False
    for early in [True, False]:
        when = "while it is asked" if early else "before it is asked"
        yield f"executes a program of another user {when}", lambda early=early: executes(stage, TWO, early), ONE, ["/one"], False
        yield f"executes a program of its own {when}", lambda early=early: executes(stage, ONE, early), ONE, ["/one"], False
    yield "shares files with a child who connects", lambda: shares_files(stage, "its parent"), 0, ["/two"], False
    yield "shares files with a child who is gone", lambda: shares_files(stage, "its parent, after it has ended"), 0, [], False
    if not stage.victims_cgroup:
        return
    yield "is in the container", lambda: stage.call_from(stage.victims_cgroup), 0, ["/victim"], True
    yield "is in a cgroup below the container's", lambda: stage.call_from(stage.make_cgroup(f"docker/{forged}/init.scope")), 0, ["/victim"], True
    yield "is in a container in a container", lambda: stage.call_from(stage.nested), 0, ["/victim"], True

    def delegate():
        stage.enter(stage.delegated)
        become(ONE)
        return forges_cgroups(stage)

    yield "forges cgroups in a subtree of its own", delegate, 0, ["/one"], False
    yield "forges mountinfo", lambda: forges_mountinfo(stage), 0, ["/one"], False


def hierarchies():
    """The cgroup file systems' roots, the one to play in first: version 2, or the first that counts nothing."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            kind, root, target = rest.split()[0], fields.split()[3], fields.split()[4]
            if kind in ("cgroup", "cgroup2") and root == "/":
                rank = 0 if kind == "cgroup2" else 1 if "pids" in rest or "freezer" in rest else 2
                found.append((rank, target))
    return [target for _, target in sorted(found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--engine", required=True, help="path of the engine's socket, which is made here")
    parser.add_argument("--folder", required=True, help="where set-user-id programs can be put")
    parser.add_argument("--trust-domain", default="example.org")
    parser.add_argument("--lagging", action="store_true", help="play only with an engine that learns late of a container's end")
    arguments = parser.parse_args()
    arguments.roots = hierarchies()
    arguments.hierarchy = arguments.roots[0] if arguments.roots else None
    stage = Stage(arguments)
    serve_engine(stage, arguments.engine)

    seen, wrong = {}, []
    try:
        stage.victim = fork(sleep_forever, TWO)
        stage.children.append(stage.victim)
        stage.container, nested = (uuid.uuid4().hex + uuid.uuid4().hex for _ in range(2))
        try:
            if not arguments.hierarchy:
                raise Skipped("no cgroup file system is mounted")
            stage.victims_cgroup = stage.start_container(f"docker/{stage.container}", stage.container)
            stage.nested = stage.start_container(f"docker/{uuid.uuid4().hex * 2}/docker/{nested}", nested)
            stage.own = f"user.slice/finial-test-{os.getpid()}"
            stage.delegated = stage.make_cgroup(stage.own, ONE)
        except Skipped as reason:
            seen["cgroups"], stage.victims_cgroup = f"skipped: {reason}", None
        if arguments.lagging:
            got = takes_the_pid_of_a_container(stage) if stage.victims_cgroup else "skipped"
            seen["takes the PID of a container"] = got
            if isinstance(got, list) and "/victim" in got:
                wrong.append(f"takes the PID of a container: got {got}")
        for name, trick, user, most, must in [] if arguments.lagging else tricks(stage):
            got = stage.played(trick, user or None)
            seen[name] = got if isinstance(got, str) else sorted(set(got))
            played = not isinstance(got, str)
            if played and (set(got) - set(most) or (must and not got)):
                wrong.append(f"{name}: got {sorted(set(got))}, and may get {most}")
    finally:
        if stage.victims_cgroup:
            for folder, _, _ in os.walk(stage.delegated):
                stage.cgroups.append(folder)
        stage.close()
    print(json.dumps(seen), flush=True)
    for line in wrong:
        print(f"impostors: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
