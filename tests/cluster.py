"""A real SLURM cluster of one node on this machine, for tests. Starting it requires root."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ETC = Path("/etc/slurm")
FIRST_LINE = "# written by the tests of robustgen"
"""First line of the configuration files that this module may overwrite and delete."""
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo")

SLURM_CONF = """{first_line}
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
GRES_CONF = """{first_line}
AutoDetect=off
NodeName={host} Name=gpu File=/dev/null
NodeName={host} Name=gpu File=/dev/zero
"""


def find_obstacle() -> str:
    """Return why SLURM cannot be started on this machine, or an empty text if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {missing[0]}: install slurm-wlm and munge"
    if os.geteuid() != 0:
        return "only root can start SLURM"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(FIRST_LINE):
        return f"this machine has a SLURM of its own: {conf}"
    return ""


@contextmanager
def run_slurm(folder: Path) -> Iterator[None]:
    """Start SLURM with its files in `folder`, wait until it is idle, and stop it in the end.

    The partitions `cpu` and `gpu` share the node. Its two GPUs are declared, but do not exist.
    The configuration is in /etc/slurm, the only place where programs in a job look for it.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    values = {"first_line": FIRST_LINE, "host": socket.gethostname(), "folder": folder}
    values |= {"cpus": os.cpu_count(), "memory": memory}
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (ETC / "gres.conf").write_text(GRES_CONF.format(**values))
    munge_folder = Path("/run/munge")
    munge_folder.mkdir(exist_ok=True)
    shutil.chown(munge_folder, "munge", "munge")
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


def _wait_until_idle(timeout_s: float = 60) -> None:
    """Wait until the node is idle; raise a `TimeoutError` if it takes longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        sinfo = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if sinfo.stdout.split()[:1] == ["idle"]:
            return
        time.sleep(0.5)
    raise TimeoutError(f"the node is not idle: {sinfo.stdout}{sinfo.stderr}")
