"""A throw-away SLURM cluster on this machine: one controller, three nodes, munge, and accounting on MariaDB.

By hand (as root, with Debian's slurm-wlm, slurmdbd, munge and mariadb-server): `make slurm-sandbox` starts it and a
shell in which sbatch, squeue, sacct and `fastmoco campaign run --cluster slurm` work; leaving the shell ends it.
Everything lies in one folder, on ports and sockets of its own: a cluster that is already here is not touched.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NODES = 3
CORES = 4
# Jobs that a user may have in the queue of the partition `narrow`, and the largest index of an array, less one.
SUBMIT_LIMIT = 20
MAX_ARRAY_SIZE = 50
_COMMANDS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "munged", "mariadbd", "mariadb-install-db")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str | None:
    """Why a cluster cannot be started here, in one sentence; None when it can."""
    if os.geteuid() != 0:
        return "the throw-away SLURM cluster needs root"
    missing = [command for command in _COMMANDS if shutil.which(command, path=_PATH) is None]
    if missing:
        install = "apt-get install slurm-wlm slurmdbd munge mariadb-server"
        return f"SLURM is not installed here ({', '.join(missing)} missing): {install}"
    return None


class Sandbox:
    """A cluster of `NODES` nodes of `CORES` cores; `environment` is what its commands need.

    Partitions: `main` (default), `short` (time limit 1 minute), `dear` (preempts `cheap`, whose jobs are queued again)
    and `cheap`.
    """

    def __init__(self, folder: Path, *, accounting: bool = True) -> None:
        self.folder, self.accounting = Path(folder), accounting
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{_PATH}",
        }
        for name in [name for name in self.environment if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del self.environment[name]
        self.ports = _free_ports(3 + NODES)

    def start(self) -> Sandbox:
        """Bring up munge, the accounts, the controller and the nodes; returns when the nodes are idle."""
        for name in ("state", "log", "run", *(f"spool{i}" for i in range(NODES))):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._munge()
        if self.accounting:
            self._accounts()
        self._write_configuration()
        if self.accounting:
            self._limits()
        self.start_controller()
        for index in range(NODES):
            self.start_node(index)
        self.wait(lambda: self.ask("sinfo", "-h", "-o", "%T", "-N").split().count("idle") >= NODES, "nodes to be idle")
        return self

    def stop(self) -> None:
        """End everything this sandbox started."""
        if "slurmctld" in self.processes:
            self.ask("scancel", "--full", "--user=root")
        for name in [*reversed(self.processes)]:
            self.stop_process(name)

    def start_controller(self) -> None:
        """Start slurmctld; one that ran before left its state."""
        self._spawn("slurmctld", ["slurmctld", "-D", "-i"])
        self.wait(lambda: "UP" in self.ask("scontrol", "ping"), "the controller to answer")

    def start_node(self, index: int) -> None:
        """Start one slurmd."""
        self._spawn(f"node{index}", ["slurmd", "-D", "-N", f"node{index}"])

    def stop_process(self, name: str, *, kill: bool = False) -> None:
        """End one daemon: "slurmctld", "node0" ..."""
        process = self.processes.pop(name)
        process.kill() if kill else process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ask(self, *command: str) -> str:
        """What a command of the cluster prints; empty when it fails."""
        answer = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        return answer.stdout if answer.returncode == 0 else ""

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait until `condition` holds. Raises TimeoutError, with the logs' ends, when it does not."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in (self.folder / "log").iterdir()
                )
                raise TimeoutError(f"waited {timeout_s:g} s for {what}\n{self.ask('squeue')}\n{logs}")
            time.sleep(0.2)

    def _spawn(self, name: str, command: list[str], **options: object) -> None:
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [shutil.which(command[0], path=_PATH) or command[0], *command[1:]],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                **options,  # type: ignore[call-overload]
            )

    @property
    def _munge_socket(self) -> Path:
        return self.folder / "run" / "munge.socket"

    def _munge(self) -> None:
        key = self.folder / "run" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        run = self.folder / "run"
        places = [f"--key-file={key}", f"--pid-file={run}/munge.pid", f"--seed-file={run}/munge.seed"]
        command = [
            "munged",
            "--foreground",
            "--force",
            f"--socket={self._munge_socket}",
            f"--log-file={run}/munge.log",
            *places,
        ]
        self._spawn("munged", command)
        self.wait(self._munge_socket.exists, "munge")

    def _accounts(self) -> None:
        base, run = self.folder / "mysql", self.folder / "run"
        # As root, so that the folder may lie where only root looks (pytest's).
        common = [f"--datadir={base}", "--user=root"]
        subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=socket", "--skip-test-db"],
            check=True,
            capture_output=True,
            env=self.environment,
        )
        database = run / "mysql.sock"
        tuning = ["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--skip-networking=0"]
        where = [
            f"--socket={database}",
            f"--port={self.ports[0]}",
            "--bind-address=127.0.0.1",
            f"--pid-file={run}/mysql.pid",
        ]
        self._spawn("mariadbd", ["mariadbd", "--no-defaults", *common, *where, *tuning])
        self.wait(database.exists, "MariaDB")
        grant = (
            "CREATE DATABASE slurm; CREATE USER slurm@'%' IDENTIFIED BY 'sandbox'; GRANT ALL ON slurm.* TO slurm@'%';"
        )
        client = ["mariadb", "--no-defaults", f"--socket={database}", "-u", "root", "-e", grant]
        subprocess.run(client, check=True, capture_output=True)
        _write(
            self.folder / "slurmdbd.conf",
            f"""
            AuthType=auth/munge
            AuthInfo=socket={self._munge_socket}
            DbdHost=localhost
            DbdPort={self.ports[1]}
            SlurmUser=root
            StorageType=accounting_storage/mysql
            StorageHost=127.0.0.1
            StoragePort={self.ports[0]}
            StorageUser=slurm
            StoragePass=sandbox
            StorageLoc=slurm
            PidFile={run}/slurmdbd.pid
            """,
        ).chmod(0o600)
        self._spawn("slurmdbd", ["slurmdbd", "-D"])

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.ports[1])) == 0

        self.wait(listens, "slurmdbd")

    def _limits(self) -> None:
        """A cluster, an account, and a QOS that lets a user submit `SUBMIT_LIMIT` jobs (elements of arrays count)."""
        for words in (
            ["add", "cluster", "sandbox"],
            ["add", "qos", "narrow"],
            ["modify", "qos", "narrow", "set", f"MaxSubmitJobsPerUser={SUBMIT_LIMIT}"],
        ):
            answer = subprocess.run(["sacctmgr", "-i", *words], env=self.environment, capture_output=True, text=True)
            if answer.returncode:
                raise RuntimeError(f"sacctmgr {' '.join(words)}: {answer.stdout}{answer.stderr}")

    def _write_configuration(self) -> None:
        accounts = f"""
            AccountingStorageEnforce=limits,qos
            AccountingStorageType=accounting_storage/slurmdbd
            AccountingStorageHost=localhost
            AccountingStoragePort={self.ports[1]}
            AccountingStoragePass={self._munge_socket}
            """
        nodes = "\n".join(
            f"NodeName=node{index} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={self.ports[3 + index]} "
            f"CPUs={CORES} RealMemory=4000 State=UNKNOWN"
            for index in range(NODES)
        )
        everyone = f"Nodes=node[0-{NODES - 1}]"
        narrow = "QOS=narrow" if self.accounting else ""
        _write(
            self.folder / "slurm.conf",
            f"""
            ClusterName=sandbox
            SlurmctldHost={socket.gethostname()}(127.0.0.1)
            SlurmctldPort={self.ports[2]}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            # A requeued job waits for cred_expire; the default is 120 s.
            AuthInfo=socket={self._munge_socket},cred_expire=5
            CredType=cred/munge
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool%n
            SlurmctldPidFile={self.folder}/run/slurmctld.pid
            SlurmdPidFile={self.folder}/run/slurmd.%n.pid
            SlurmctldLogFile={self.folder}/log/ctld.log
            SlurmdLogFile={self.folder}/log/slurmd.%n.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            SwitchType=switch/none
            MpiDefault=none
            ReturnToService=2
            SlurmdParameters=config_overrides
            SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0,bf_interval=2,requeue_delay=0
            SlurmdTimeout=10
            KillWait=10
            MinJobAge=300
            OverTimeLimit=0
            MaxArraySize={MAX_ARRAY_SIZE}
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            {accounts if self.accounting else ""}
            """
            + f"{nodes}\n"
            + f"PartitionName=main {everyone} Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF\n"
            + f"PartitionName=short {everyone} MaxTime=1 State=UP PreemptMode=OFF\n"
            + f"PartitionName=cheap {everyone} PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE\n"
            + (f"PartitionName=narrow {everyone} MaxTime=INFINITE State=UP PreemptMode=OFF {narrow}\n")
            + f"PartitionName=dear {everyone} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF\n",
        )


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: no daemon outlives a test run that was killed.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _write(path: Path, text: str) -> Path:
    path.write_text("\n".join(line.strip() for line in text.splitlines()) + "\n", encoding="utf-8")
    return path


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def main() -> int:
    """A shell on a cluster of its own."""
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fastmoco-slurm-"))
    sandbox = Sandbox(folder)
    try:
        sandbox.start()
        print(f"{NODES} nodes of {CORES} cores are up (logs: {folder}/log); try sinfo, or from the project's folder:")
        print("  fastmoco campaign run benchmarks/campaigns/demo.yaml --root runs/sandbox --cluster slurm")
        venv = Path(sys.executable).parent
        environment = {
            **sandbox.environment,
            "PATH": f"{venv}:{sandbox.environment['PATH']}",
            "PS1": "(slurm sandbox) $ ",
        }
        return subprocess.run([os.environ.get("SHELL", "/bin/bash")], env=environment, check=False).returncode
    finally:
        sandbox.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
