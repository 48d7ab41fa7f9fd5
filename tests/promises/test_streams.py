"""Every stream of kubectl on a real node, over each protocol: the same through the proxy as without, and on record."""

import hashlib
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import pytest

from servers.kubectls import new_kubectl, old_kubectl
from servers.node import Node
from servers.node.plan import NODE
from servers.node.pods import IMAGE, SLEEP, container, kubectl, pod, run
from support.proxies import Proxy, wait_until
from support.sessions import Person
from support.trail import Record, Trail, what
from support.ways import through
from support.websockets import Stream

pytestmark = pytest.mark.servers

PEOPLE: dict[str, tuple[Callable[[], Path], bool]] = {
    "1.36-websocket": (new_kubectl, True),
    "1.36-spdy": (new_kubectl, False),
    "1.28-spdy": (old_kubectl, False),
}
MEGABYTES = 10 << 20


@pytest.fixture(params=PEOPLE, scope="module")
def person(
    request: pytest.FixtureRequest, node: Node, node_fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Person:
    """Give somebody with a kubectl and a protocol."""
    program, websockets = PEOPLE[request.param]
    home = tmp_path_factory.mktemp(request.param)
    return Person(request.param.replace(".", ""), program(), node.kubeconfig, node_fronted, home, websockets)


@pytest.fixture(scope="module")
def box(node: Node) -> str:
    """Give a pod of two containers that have said something."""
    talk = "echo out; echo err >&2; echo done"
    run(node, pod("box", container(f"{talk}; {SLEEP}"), container(f"echo beside; {SLEEP}", "side")))
    return "box"


LISTENER = """
mkdir -p /www/a /www/b
head -c 3000000 /dev/urandom > /www/a/big; echo a > /www/a/name; echo b > /www/b/name
httpd -p 80 -h /www/a; httpd -p 81 -h /www/b
echo 'read -r line; echo "got $line"' > /answer
while true; do nc -ll -p 82 -e sh /answer; done
"""


@pytest.fixture(scope="module")
def listener(node: Node) -> str:
    """Give a pod with web servers on ports 80 and 81, and on 82 one that answers a line."""
    run(node, pod("listener", container(LISTENER)))
    return "listener"


@contextmanager
def alone(node: Node, name: str, script: str, **container_settings: Any) -> Iterator[str]:
    """Give a pod of its own that runs a script once."""
    run(node, pod(name, container(script, **container_settings), restartPolicy="Never"))
    try:
        yield name
    finally:
        kubectl(node, "delete", "pod", name, "--now", "--wait=false")


# logs


@pytest.mark.parametrize(
    "options",
    [[], ["-c", "side"], ["--tail=1"], ["-c", "main", "--prefix"], ["-l", "run=box", "-c", "main"],
     ["--timestamps"], ["-c", "nobody"], ["--previous"]],
    ids=" ".join,
)  # fmt: skip
def test_logs_are_those_of_the_container(person: Person, box: str, options: list[str]) -> None:
    """What a container has said, and why it cannot be had, reads the same; each log is one complete call."""
    who = [] if "-l" in options else [box]
    ran = person.both("logs", *who, *options)
    logs = ran.all_of("log")
    assert {call["outcome"] for call in logs} <= {"complete"}
    assert (ran.code == 0) == bool(logs and all(call["status"] == 200 for call in logs))
    assert all((call["verb"], call["name"]) == ("get", box) for call in logs)


CRASH = f'[ -e /kept/mark ] && {SLEEP}; touch /kept/mark; echo "life of $(hostname)"; exit 1'


def test_logs_of_the_life_before(person: Person, node: Node) -> None:
    """Logs --previous shows what a container said before it was started again."""
    name = f"crashed-{person.name}"
    volume = {"volumes": [{"name": "kept", "emptyDir": {}}]}
    lives = container(CRASH, volumeMounts=[{"name": "kept", "mountPath": "/kept"}])
    run(node, pod(name, lives, **volume), until="jsonpath={.status.containerStatuses[0].restartCount}=1")
    ran = person.both("logs", name, "--previous")
    kubectl(node, "delete", "pod", name, "--now", "--wait=false")
    assert ran.stdout == f"life of {name}\n".encode()
    assert ran.call("log")["requestURI"].endswith("previous=true")


TALKER = """
mkfifo /tmp/in; exec 3<>/tmp/in
while read -r line <&3; do echo "$line"; [ "$line" = end ] && exit 0; done
"""


def say(node: Node, name: str, line: str) -> None:
    """Have a talker say a line; at the last one it may end before it has answered us."""
    kubectl(node, "exec", name, "--", "sh", "-c", f"echo {line} > /tmp/in", check=line != "end")


def test_logs_are_followed_to_their_end(person: Person, node: Node) -> None:
    """Logs -f shows a line as it is said, is on record while it runs, and ends by itself with the container."""
    with alone(node, f"talker-{person.name}", TALKER) as name:
        trail = Trail(person.proxy)
        with person.running(person.fronted, "logs", "-f", name) as following:
            assert following.stdout is not None
            say(node, name, "one")
            assert following.stdout.readline() == b"one\n"
            assert trail.started(lambda line: line.get("subresource") == "log")["status"] == 200
            say(node, name, "end")
            assert (following.stdout.read(), following.wait()) == (b"end\n", 0)
        end = trail.end(lambda line: line.get("subresource") == "log")
        assert (end["outcome"], end["command"]) == ("complete", "kubectl logs")
        assert "follow=true" in end["requestURI"]


def test_a_follower_who_leaves_is_recorded_so(person: Person, node: Node) -> None:
    """Ctrl-C ends logs -f: the record says that the client went."""
    with alone(node, f"left-{person.name}", TALKER) as name:
        trail = Trail(person.proxy)
        with person.running(person.fronted, "logs", "-f", name) as following:
            assert following.stdout is not None
            say(node, name, "one")
            assert following.stdout.readline() == b"one\n"
        assert trail.end(lambda line: line.get("subresource") == "log")["outcome"] == "client_gone"


# exec


def only(calls: Sequence[Record], subresource: str) -> Record:
    """The only one of some calls that is of a subresource."""
    (found,) = [call for call in calls if call.get("subresource") == subresource]
    return found


def is_a_stream_of(person: Person, record: Record, container: str = "main") -> bool:
    """Whether a record is of an exec or attach as this person's kubectl makes it."""
    assert (record["upgrade"], record["status"]) == (person.upgrade, 101)
    assert (record["subprotocol"], record["exec_container"]) == (person.command_subprotocol, container)
    assert (record["decision"], record["decided_by"]) == ("allow", "apiserver")
    return True


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["echo", "a b", "", "c&d"], 0),
        (["sh", "-c", "echo out; echo err >&2; exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], 137),
    ],
    ids=["0", "3", "137"],
)
def test_exec_ends_with_the_commands_exit_code(person: Person, box: str, argv: list[str], code: int) -> None:
    """Output, error output and exit code are the same; the record has container, argv, protocol and exit code."""
    ran = person.both("exec", box, "-c", "side", "--", *argv)
    assert ran.code == code
    end = ran.call("exec")
    assert is_a_stream_of(person, end, "side")
    assert (end["exec_argv"], end["exec_tty"], end["exec_stdin"], end["exit_code"]) == (argv, False, False, code)
    assert (end["outcome"], end.get("reason")) == ("complete", "NonZeroExitCode" if code else None)


def test_exec_of_what_is_not_there(person: Person, box: str) -> None:
    """A program or container that is not there fails alike, and the record says why and has no exit code of it."""
    ids = re.compile(r"[0-9a-f]{64}")
    for arguments in (["exec", box, "--", "nothing"], ["exec", box, "-c", "nobody", "--", "true"]):
        ran = person.both(*arguments, clean=lambda text: ids.sub("ID", text))
        assert ran.code
        for end in ran.all_of("exec"):
            assert end.get("exit_code", ran.code) == ran.code
            assert end["message"]
            assert end["outcome"] == "complete"


def test_bulk_passes_through_exec_unharmed(person: Person, box: str) -> None:
    """10 MB into a container arrive as they were sent, and come back so; the record counts both directions."""
    data = os.urandom(MEGABYTES)
    ran = person.through(
        "exec",
        "-i",
        box,
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "tee /tmp/copy; sha256sum < /tmp/copy >&2; rm /tmp/copy",
        given=data,
    )
    assert ran.code == 0
    assert ran.stderr == f"{hashlib.sha256(data).hexdigest()}  -"
    assert ran.stdout == data
    end = ran.call("exec")
    assert is_a_stream_of(person, end)
    assert (end["exec_stdin"], end["exit_code"]) == (True, 0)
    assert end["request_bytes"] > MEGABYTES
    assert end["response_bytes"] > MEGABYTES


def test_a_terminal(person: Person, box: str) -> None:
    """Exec -it: the size arrives, and each change of it; Ctrl-C reaches the command; the exit code comes back."""
    trail = Trail(person.proxy)
    with person.terminal(person.fronted, "exec", "-it", box, "--", "sh", rows=30, columns=100) as terminal:
        terminal.type_until("stty size\n", "30 100")
        terminal.resize(44, 132)
        terminal.type_until("stty size\n", "44 132")
        terminal.type("sh -c 'echo sle$((1))ps; sleep 1000'\n")
        terminal.until("sle1ps")
        terminal.type("\x03")
        terminal.until("# ")
        terminal.type("echo code=$?.\n")
        terminal.until("code=130.")
        terminal.type("exit 5\n")
        assert terminal.code() == 5
    end = trail.end(lambda line: line.get("subresource") == "exec")
    assert is_a_stream_of(person, end)
    assert (end["exec_argv"], end["exec_tty"], end["exec_stdin"], end["exit_code"]) == (["sh"], True, True, 5)
    assert end["outcome"] == "complete"


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)], ids=["0", "3", "137"])
def test_exit_codes_over_each_websocket_protocol(
    node_fronted: Proxy, box: str, protocol: str, script: str, code: int
) -> None:
    """Whatever channels a websocket client speaks, the record has container, argv, protocol and exit code."""
    argv = [("command", "sh"), ("command", "-c"), ("command", f"echo out; {script}")]
    query = urlencode([*argv, ("container", "side"), ("stdout", "true")])
    trail = Trail(node_fronted)
    with Stream(through(node_fronted), f"/api/v1/namespaces/default/pods/{box}/exec?{query}", [protocol]) as stream:
        assert stream.to_the_end().channels[1] == b"out\n"
    end = trail.end()
    assert (end["subprotocol"], end["exec_container"], end["exit_code"]) == (protocol, "side", code)
    assert (end["exec_argv"], end["outcome"]) == (["sh", "-c", f"echo out; {script}"], "complete")


# attach

ECHO = 'while read -r line; do echo "got $line"; [ "$line" = bye ] && exit 4; done'


def line_like(output: IO[bytes], start: bytes) -> bytes:
    """The first line that begins so; kubectl may say something before."""
    while line := output.readline():
        if line.startswith(start):
            return line
    return line


def test_attach_shows_what_is_said_from_now_on(person: Person, node: Node) -> None:
    """Attach without input follows a container to its end."""
    with alone(node, f"attached-{person.name}", TALKER) as name:
        trail = Trail(person.proxy)
        with person.running(person.fronted, "attach", name) as attached:
            assert attached.stdout is not None
            trail.started(lambda line: line.get("subresource") == "attach")
            # 101 comes before the node has it
            with ThreadPoolExecutor(1) as reader:
                line = reader.submit(line_like, attached.stdout, b"on")

                def is_shown() -> bool:
                    say(node, name, "on")
                    return line.done()

                wait_until(is_shown, "a line")
            assert line.result() == b"on\n"
            say(node, name, "end")
            assert (attached.stdout.read().split()[-1], attached.wait()) == (b"end", 0)
        end = trail.end(lambda line: line.get("subresource") == "attach")
        assert is_a_stream_of(person, end)
        assert (end["exec_stdin"], end["exec_tty"], end["outcome"]) == (False, False, "complete")
        assert "exit_code" not in end


def test_attach_with_input(person: Person, node: Node) -> None:
    """Attach -i gives the container lines and shows its answers; it ends as the container does."""
    with alone(node, f"asked-{person.name}", ECHO, stdin=True) as name:
        trail = Trail(person.proxy)
        with person.running(person.fronted, "attach", "-i", name) as attached:
            assert attached.stdin is not None
            assert attached.stdout is not None
            attached.stdin.write(b"hello\n")
            attached.stdin.flush()
            assert line_like(attached.stdout, b"got") == b"got hello\n"
            attached.stdin.write(b"bye\n")
            attached.stdin.flush()  # and no end of input: with it the node would end the output as well
            assert (attached.stdout.read(), attached.wait()) == (b"got bye\n", 0)
        end = trail.end(lambda line: line.get("subresource") == "attach")
        assert is_a_stream_of(person, end)
        assert (end["exec_stdin"], end["exec_tty"], end["outcome"]) == (True, False, "complete")


def test_attach_with_a_terminal(person: Person, node: Node) -> None:
    """Attach -it to a shell of a container: size, changes of it, Ctrl-C, and the way out."""
    with alone(node, f"shell-{person.name}", "exec sh", stdin=True, tty=True) as name:
        trail = Trail(person.proxy)
        with person.terminal(person.fronted, "attach", "-it", name, rows=31, columns=101) as terminal:
            terminal.type("\n")
            terminal.type_until("stty size\n", "31 101")
            terminal.resize(45, 133)
            terminal.type_until("stty size\n", "45 133")
            terminal.type("sh -c 'echo sle$((1))ps; sleep 1000'\n")
            terminal.until("sle1ps")
            terminal.type("\x03")
            terminal.until("# ")
            terminal.type("exit\n")
            assert terminal.code() == 0
        end = trail.end(lambda line: line.get("subresource") == "attach")
        assert is_a_stream_of(person, end)
        assert (end["exec_stdin"], end["exec_tty"], end["outcome"]) == (True, True, "complete")


# cp


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, by path; a folder has no content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_files_and_folders_are_copied_both_ways(person: Person, box: str, tmp_path: Path) -> None:
    """What cp takes there and back is what it was; in the trail it is what it runs."""
    there, back = tmp_path / "there", tmp_path / "back"
    (there / "deep" / "er").mkdir(parents=True)
    (there / "empty").mkdir()
    (there / "bulk").write_bytes(os.urandom(1 << 20))
    (there / "deep" / "a name with spaces").write_bytes(bytes(range(256)))
    (there / "deep" / "er" / "nothing").touch()
    where = f"/tmp/{person.name}"  # noqa: S108 - in the container

    up = person.through("cp", str(there), f"{box}:{where}", "-c", "side")
    assert (up.code, up.stdout, up.stderr) == (0, b"", "")
    test, into = up.all_of("exec")
    assert (test["exec_argv"], test["exit_code"]) == (["test", "-d", where], 1)
    assert into["exec_argv"][0] == "tar"
    assert (into["exec_stdin"], into["exit_code"]) == (True, 0)
    assert is_a_stream_of(person, into, "side")
    down = person.through("cp", f"{box}:{where}", str(back), "-c", "side")
    assert down.code == 0
    assert down.call("exec")["exec_argv"] == ["tar", "cf", "-", where]
    assert down.call("exec").get("exit_code", 0) == 0  # kubectl may leave as soon as it has the end of the archive
    assert {call["command"] for call in (*up.calls, *down.calls)} == {"kubectl cp"}
    assert tree(back) == tree(there)

    one = f"{where}-one"
    assert person.through("cp", str(there / "bulk"), f"{box}:{one}").code == 0
    # What tar remarks is shown if kubectl is still there then: it leaves once it has the end of the archive.
    remark = b"tar: removing leading '/' from member names\n"
    ran = [run("cp", f"{box}:{one}", str(tmp_path / "one")) for run in (person.directly, person.through)]
    direct, through = ((each.stdout.replace(remark, b""), each.stderr, each.code) for each in ran)
    assert through == direct
    assert through[2] == 0
    assert (tmp_path / "one").read_bytes() == (there / "bulk").read_bytes()


# port-forward


@contextmanager
def forwarded(
    person: Person, kubeconfig: Path, target: str, *ports: int
) -> Iterator[tuple[dict[int, int], subprocess.Popen[bytes]]]:
    """Forward ports of a pod; give the local port of each, and kubectl."""
    wanted = [f":{port}" for port in ports]
    with person.running(kubeconfig, "port-forward", target, *wanted, "--address=127.0.0.1") as forwarding:
        assert forwarding.stdout is not None
        lines = [forwarding.stdout.readline() for _ in ports]
        found = [re.fullmatch(rb"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)\n", line) for line in lines]
        assert all(found), lines
        yield {int(match[2]): int(match[1]) for match in found if match}, forwarding


def ask(port: int, sent: bytes) -> bytes:
    """Send bytes and end the input; give all that comes back."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def answer(port: int) -> bytes:
    """Ask until there is an answer: containerd leaves a second for it after the end of the input."""
    return wait_until(lambda: ask(port, b"all\n"), "an answer")


def page(port: int, name: str) -> bytes:
    """Get a page; the connection stays open for the answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}") as response:
        content: bytes = response.read()
    return content


def test_ports_are_forwarded_side_by_side(person: Person, node: Node, listener: str) -> None:
    """Many connections at once to several ports each get their own bytes; the record has the ports and the protocol."""
    expected = kubectl(node, "exec", listener, "--", "sha256sum", "/www/a/big").split()[0]
    trail = Trail(person.proxy)
    with forwarded(person, person.fronted, f"pod/{listener}", 80, 81) as (local, _):
        assert (page(local[80], "name"), page(local[81], "name")) == (b"a\n", b"b\n")
        with ThreadPoolExecutor(12) as many:
            pages = list(many.map(lambda _: page(local[80], "big"), range(12)))
    assert {hashlib.sha256(each).hexdigest() for each in pages} == {expected}
    end = trail.end(lambda line: line.get("subresource") == "portforward")
    assert (end["ports"], end["status"], end["upgrade"]) == ([80, 81], 101, person.upgrade)
    assert end["subprotocol"] == person.forward_subprotocol
    assert end["response_bytes"] > 12 * 3_000_000


def test_a_half_closed_connection_is_answered(person: Person, listener: str) -> None:
    """A client that has said all, and closes that direction, still gets its answer in the other."""
    for kubeconfig in (person.direct, person.fronted):
        with forwarded(person, kubeconfig, f"pod/{listener}", 82) as (local, _):
            assert answer(local[82]) == b"got all\n"


MORTAL = "mkfifo /tmp/die; mkdir /www; hostname > /www/name; httpd -p 80 -h /www; read -r x < /tmp/die; exit 1"


def test_a_forward_outlives_the_process_behind_it(person: Person, node: Node) -> None:
    """When the container has been started again, the same port-forward leads to the new one."""
    name = f"mortal-{person.name}"
    run(node, pod(name, container(MORTAL)))
    with forwarded(person, person.fronted, f"pod/{name}", 80) as (local, forwarding):
        assert page(local[80], "name").decode() == f"{name}\n"
        kubectl(node, "exec", name, "--", "sh", "-c", "echo > /tmp/die", check=False)
        kubectl(node, "wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", f"pod/{name}")
        kubectl(node, "exec", name, "--", "sh", "-c", "until netstat -ltn | grep -q :80; do sleep 0.1; done")
        assert page(local[80], "name").decode() == f"{name}\n"
        assert forwarding.poll() is None
    kubectl(node, "delete", "pod", name, "--now", "--wait=false")


def test_a_port_where_nobody_listens(person: Person, listener: str) -> None:
    """A connection that the pod refuses ends kubectl, or not, as it does directly; the port is on record."""
    trail = Trail(person.proxy)
    ended = []
    for kubeconfig in (person.direct, person.fronted):
        with forwarded(person, kubeconfig, f"pod/{listener}", 83) as (local, forwarding):
            assert ask(local[83], b"") == b""
            assert forwarding.stderr is not None
            said = forwarding.stderr.read().splitlines()
            assert b"connection refused" in said[0]
            ended.append((said[1:], forwarding.wait()))
    assert ended[0] == ended[1]
    assert trail.end(lambda line: line.get("subresource") == "portforward")["ports"] == [83]


# debug and run

GREET = 'read -r name; echo "hello $name"; read -r _; exit 6'


def greeted(person: Person, *arguments: str) -> tuple[int, list[Record]]:
    """Run what greets; give its exit code and calls.

    Input stays open: with it the node would end the output. And the container waits until the greeting is there:
    what is said just before the end, the node now and then does not send at all.
    """
    trail = Trail(person.proxy)
    with person.running(person.fronted, *arguments, "--", "sh", "-c", GREET) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        talking.stdin.write(b"you\n")
        talking.stdin.flush()
        assert line_like(talking.stdout, b"hello") == b"hello you\n"
        talking.stdin.write(b"\n")
        talking.stdin.flush()
        code = talking.wait()
    return code, trail.ends()


def test_debug_with_an_ephemeral_container(person: Person, box: str) -> None:
    """Debug puts a container beside those of a pod and attaches to it; the record shows both."""
    name = f"debugger-{person.name}"
    _, calls = greeted(person, "debug", "-i", box, f"--image={IMAGE}", "--target=main", "-c", name)
    assert ("patch", "pods/ephemeralcontainers", 200) in map(what, calls)
    assert is_a_stream_of(person, only(calls, "attach"), name)
    assert {call["command"] for call in calls} == {"kubectl debug"}


def test_debug_of_a_node(person: Person, node: Node) -> None:
    """Debug of a node runs a pod that has the node's files, and attaches to it."""
    _, calls = greeted(person, "debug", "-i", f"node/{NODE}", f"--image={IMAGE}")
    attach = only(calls, "attach")
    try:
        assert is_a_stream_of(person, attach, "debugger")
        assert attach["name"].startswith(f"node-debugger-{NODE}-")
        assert ("create", "pods", 201) in map(what, calls)
    finally:
        kubectl(node, "delete", "pod", attach["name"], "--now", "--wait=false")


def test_run_with_input(person: Person, node: Node) -> None:
    """Run -i --rm makes a pod, gives it input and shows its output, gives its exit code, and deletes it."""
    name = f"greeter-{person.name}"
    code, calls = greeted(person, "run", name, "-i", "--rm", "--restart=Never", f"--image={IMAGE}")
    assert code == 6
    assert is_a_stream_of(person, only(calls, "attach"), name)
    assert {("create", "pods", 201), ("delete", "pods", 200)} <= set(map(what, calls))
    assert name not in kubectl(node, "get", "pods", "-o", "name")


def test_run_and_remove(person: Person, node: Node) -> None:
    """Run -it --rm makes a pod, puts its shell into the terminal, gives its exit code, and deletes it."""
    name = f"once-{person.name}"
    trail = Trail(person.proxy)
    arguments = ["run", name, "-it", "--rm", "--restart=Never", f"--image={IMAGE}", "--", "sh"]
    with person.terminal(person.fronted, *arguments, rows=33, columns=103) as terminal:
        terminal.type("\n")
        terminal.type_until("stty size\n", "33 103")
        terminal.type("exit 6\n")
        terminal.until(f'pod "{name}" deleted')
        assert terminal.code() == 6
    calls = trail.ends()
    assert is_a_stream_of(person, only(calls, "attach"), name)
    assert {("create", "pods", 201), ("delete", "pods", 200)} <= set(map(what, calls))
    assert {call["command"] for call in calls} == {"kubectl run"}
    assert name not in kubectl(node, "get", "pods", "-o", "name")
