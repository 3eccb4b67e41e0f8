"""Tries to get the identity of another user's process out of the Workload API, by every race there is around a PID.

Each round one process connects; then it exits, or becomes another program or user, or hands its connection over, while its PID is given
to a process of somebody else; and the request is sent before, between or after. Whatever is answered on a connection must be
the identity of the user who connected, and nothing at all may be answered once that process was gone before the request was sent.

Needs root (it changes users) and only Python's standard library. Prints one JSON line at the end; 1 if an identity got out.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import socket
import stat
import struct
import sys
import threading
import time

LAST_PID = "/proc/sys/kernel/ns_last_pid"
# Effective user of a process, and the path of its identity. The last has none.
USERS = {0: "/root", 20001: "/one", 20002: "/two", 20003: None}


def header(name, value):
    """Literal, never indexed, not compressed (RFC 7541, section 6.2.3)."""
    name, value = name.encode(), value.encode()
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0)
    + frame(
        HEADERS,
        END_HEADERS,
        1,
        b"".join(
            header(name, value)
            for name, value in [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("workload.spiffe.io", "true"),
            ]
        ),
    )
    + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")
)


def answer(connection, seconds):
    """What came on the one stream: the payload of its message, or b"" for a refusal and for a connection that was closed."""
    connection.settimeout(seconds)
    buffer, data = b"", b""
    while True:
        while len(buffer) >= 9:
            length = int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + length:
                break
            kind, flags, payload = buffer[3], buffer[4], buffer[9 : 9 + length]
            buffer = buffer[9 + length :]
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))
            elif kind == DATA:
                data += payload
                if len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
                    return data
            elif kind == GOAWAY or (kind == HEADERS and flags & END_STREAM) or kind == RST_STREAM:
                return data
        block = connection.recv(65536)
        if not block:
            return data
        buffer += block


def fork(action, user=None):
    """A child that runs `action` as `user` and exits; never returns there."""
    child = os.fork()
    if child:
        return child
    try:
        if user:
            become(user)
        action()
    except BaseException:
        os._exit(1)
    os._exit(0)


def become(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def sleep_forever():
    signal.pause()


class Round:
    """One attempt. What is left open or running is cleaned up by `close`."""

    def __init__(self, arguments, chance):
        self.arguments = arguments
        self.chance = chance
        self.children = []
        self.connection = socket.socket(socket.AF_UNIX)
        self.recycled = False
        self.gone_before = False

    def close(self):
        self.connection.close()
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def pause(self):
        """Nothing at all, or up to some milliseconds: what is raced takes tens of microseconds to milliseconds."""
        if self.chance.random() < 0.7:
            time.sleep(10 ** self.chance.uniform(-5, -2.3))

    def connect(self):
        self.connection.connect(self.arguments.socket)

    def send(self):
        try:
            self.connection.sendall(REQUEST)
        except OSError:
            pass  # refused already

    def recycle(self, pid, user):
        """Gives a PID that has just become free to a process of `user`."""
        with open(LAST_PID, "w", encoding="ascii") as file:
            file.write(str(pid - 1))
        child = fork(sleep_forever, user)
        self.children.append(child)
        self.recycled = child == pid

    def exits_and_is_replaced(self, user, other):
        """Connects and exits; `other` gets the PID."""
        stopped = self.chance.random() < 0.3
        if stopped:  # the PID is another's before the connection is even accepted
            os.kill(self.arguments.agent, signal.SIGSTOP)
        try:
            child = fork(self.connect, user)
            order = self.chance.randrange(3)
            if order == 0:
                self.pause()
                self.send()
            os.waitpid(child, 0)
            if order == 1:
                self.send()
            self.gone_before = order > 0
            self.recycle(child, other)
            if order == 2:
                self.pause()
                self.send()
        finally:
            if stopped:
                os.kill(self.arguments.agent, signal.SIGCONT)

    def hands_the_connection_over(self, user, other):
        """Connects, passes the socket to a process of `other` by SCM_RIGHTS, and perhaps exits."""
        ours, theirs = socket.socketpair()
        stays = self.chance.random() < 0.3

        def give():
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.arguments.socket)
                socket.send_fds(theirs, [b"x"], [connection.fileno()])
            if stays:
                sleep_forever()

        child = fork(give, user)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        if not descriptors:
            os.waitpid(child, 0)
            return
        self.connection.close()
        self.connection = socket.socket(fileno=descriptors[0])
        if stays:
            self.children.append(child)
        else:
            os.waitpid(child, 0)
            self.gone_before = True
            self.recycle(child, other)
        sender = fork(self.send, other)
        os.waitpid(sender, 0)

    def becomes_a_program_of(self, user, other):
        """Connects, asks, and executes a program that is set-user-id of `other`."""

        def turn():
            self.connect()
            os.set_inheritable(self.connection.fileno(), True)
            self.send()
            self.pause()
            os.execv(self.arguments.programs[other], ["sleep", "1000"])

        self.children.append(fork(turn, user))
        self.wait_connected()

    def executes_and_exits(self, user, other):
        """Connects and becomes a program, its own or set-user-id of `other`, that soon exits; `other` gets the PID."""
        program = self.arguments.programs[self.chance.choice([user, other])]
        moment = str(round(10 ** self.chance.uniform(-4, -2), 6))

        def turn():
            self.connect()
            os.set_inheritable(self.connection.fileno(), True)
            self.pause()
            os.execv(program, ["sleep", moment])

        child = fork(turn, user)
        early = self.chance.random() < 0.5
        if early:
            self.wait_connected()
            self.pause()
            self.send()
        os.waitpid(child, 0)
        self.gone_before = not early
        self.recycle(child, other)
        if not early:
            self.pause()
            self.send()

    def executes_from_threads(self, user, other):
        """Connects, and threads of it race to execute programs, which ends all others; the request comes meanwhile."""
        chosen = [self.arguments.programs[self.chance.choice([user, other])] for _ in range(3)]

        def turn():
            self.connect()
            os.set_inheritable(self.connection.fileno(), True)
            for program in chosen:
                threading.Thread(target=os.execv, args=(program, ["sleep", "1000"])).start()
            sleep_forever()

        self.children.append(fork(turn, user))
        self.wait_connected()
        self.pause()
        self.send()

    def passes_the_connection_around(self, user, other):
        """Passes the socket to processes of two others, who pass it back, ask, execute and exit while the giver exits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        early = self.chance.random() < 0.3

        def give():
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.arguments.socket)
                for _ in range(2):
                    socket.send_fds(theirs, [b"x"], [connection.fileno()])
                if early:
                    connection.sendall(REQUEST)

        def take():
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            socket.send_fds(theirs, [b"x"], descriptors)
            with socket.socket(fileno=descriptors[0]) as connection:
                if not early:
                    connection.sendall(REQUEST)

        giver = fork(give, user)
        if not early:
            os.waitpid(giver, 0)
            self.gone_before = True
        takers = [fork(take, other), fork(take, 20003)] if early else [fork(take, other)]
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        for child in [*takers, *([giver] if early else [])]:
            os.waitpid(child, 0)
        self.recycle(giver, other)
        ours.close()
        theirs.close()
        if descriptors:
            self.connection.close()
            self.connection = socket.socket(fileno=descriptors[0])

    def becomes(self, _, other):
        """Connects as root, then changes to `other`."""

        def turn():
            self.connect()
            early = self.chance.random() < 0.5
            if early:
                self.send()
                self.pause()
            become(other)
            if not early:
                self.send()
            sleep_forever()

        self.children.append(fork(turn))
        self.wait_connected()

    def wait_connected(self):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                self.connection.getpeername()
                return
            except OSError:
                time.sleep(0.0005)

    def run(self):
        """The kind of attempt, who connected, and the answer."""
        kind = self.chance.choice(KINDS)
        user, other = self.chance.sample([20001, 20002, 20003], 2)
        if kind == "becomes":
            user = 0
        getattr(self, kind)(user, other)
        try:
            return kind, user, answer(self.connection, 10)
        except TimeoutError:
            return kind, user, None
        except OSError:
            return kind, user, b""


KINDS = [
    *["exits_and_is_replaced"] * 4,
    *["hands_the_connection_over"] * 2,
    *["executes_and_exits"] * 2,
    "passes_the_connection_around",
    "executes_from_threads",
    "becomes_a_program_of",
    "becomes",
]


def worker(arguments, seed):
    chance = random.Random(seed)
    counts = collections.Counter()
    deadline = time.monotonic() + arguments.seconds
    while time.monotonic() < deadline:
        attempt = Round(arguments, chance)
        try:
            kind, user, data = attempt.run()
        finally:
            attempt.close()
        counts["rounds"] += 1
        counts[kind] += 1
        counts["recycled"] += attempt.recycled
        if data is None:
            counts["unanswered"] += 1
            continue
        paths = {path for path in USERS.values() if path and f"spiffe://{arguments.trust_domain}{path}".encode() in data}
        if not paths:
            counts["refused"] += 1
            continue
        counts["answered"] += 1
        if paths != {USERS[user]}:
            counts["stolen"] += 1
            print(f"pid_reuse: {kind}: user {user} connected, and {sorted(paths)} was answered", file=sys.stderr, flush=True)
        elif attempt.gone_before:
            counts["posthumous"] += 1
            print(f"pid_reuse: {kind}: {sorted(paths)} was answered after its process had exited", file=sys.stderr, flush=True)
    return counts


def programs(folder):
    """Copies of `sleep`, set-user-id of each user."""
    found = {}
    for user in USERS:
        path = os.path.join(folder, f"sleep-{user}")
        shutil.copyfile(shutil.which("sleep"), path)
        os.chown(path, user, user)
        os.chmod(path, 0o755 | stat.S_ISUID | stat.S_ISGID)
        found[user] = path
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--agent", required=True, type=int, help="PID of the agent, which is stopped for moments")
    parser.add_argument("--folder", required=True, help="where set-user-id programs can be put")
    parser.add_argument("--trust-domain", default="example.org")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.programs = programs(arguments.folder)

    results = []
    for number in range(arguments.workers):
        ours, theirs = os.pipe()

        def work():
            os.close(ours)
            counts = worker(arguments, arguments.seed * 1000 + number)
            os.write(theirs, json.dumps(counts).encode())

        results.append((fork(work), ours))
        os.close(theirs)
    total = collections.Counter()
    failed = False
    for child, pipe in results:
        with open(pipe, "rb") as file:
            total.update(json.loads(file.read() or b"{}"))
        failed |= os.waitpid(child, 0)[1] != 0
    print(json.dumps(total), flush=True)
    if failed:
        print("pid_reuse: a worker failed", file=sys.stderr)
    if not total["recycled"]:
        print("pid_reuse: no PID was recycled", file=sys.stderr)
    if not total["answered"]:
        print("pid_reuse: nobody got an identity", file=sys.stderr)
    return 1 if failed or total["stolen"] or total["posthumous"] or not total["recycled"] or not total["answered"] else 0


if __name__ == "__main__":
    sys.exit(main())
