"""A real SLURM of one node on this machine, for tests; root alone can start one."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ETC = Path("/etc/slurm")
OURS = "# made by robustgen's tests"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo")

SLURM = """{ours}
ClusterName=robustgen
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmUser=root
SlurmdUser=root
ReturnToService=2
MinJobAge=3600
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
GresTypes=gpu
SchedulerParameters=sched_interval=1,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES DefMemPerCPU=500 MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} DefMemPerCPU=500 MaxTime=INFINITE State=UP
"""
GRES = """{ours}
AutoDetect=off
NodeName={host} Name=gpu File=/dev/null
NodeName={host} Name=gpu File=/dev/zero
"""


def why_not() -> str:
    """Why no SLURM can be started here, or nothing."""
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        return f"no {lacking[0]}: install slurm-wlm and munge"
    if os.geteuid() != 0:
        return "only root can start SLURM"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(OURS):
        return f"there is a SLURM of another's: {conf}"
    return ""


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """SLURM, up and idle, with its files in `folder`; stopped in the end.

    Partitions `cpu` and `gpu` share the node, which has two GPUs by name, though not in fact.
    The configuration must lie in /etc/slurm: what runs in a job looks for it nowhere else.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    about = {"ours": OURS, "host": socket.gethostname(), "folder": folder}
    about |= {"cpus": os.cpu_count(), "memory": memory}
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(SLURM.format(**about))
    (ETC / "gres.conf").write_text(GRES.format(**about))
    run = Path("/run/munge")
    run.mkdir(exist_ok=True)
    shutil.chown(run, "munge", "munge")
    subprocess.run(["pkill", "munged"], check=False)
    try:
        subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", ETC / "slurm.conf"], check=True)
        _wait_until_idle()
        yield
    finally:
        for daemon in ("slurmd", "slurmctld", "munged"):
            subprocess.run(["pkill", daemon], check=False)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()


def _wait_until_idle(seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if told.stdout.split()[:1] == ["idle"]:
            return
        time.sleep(0.5)
    raise TimeoutError(f"the node is not idle: {told.stdout}{told.stderr}")
