"""What the launcher does about its processes; here with a program that only waits."""

import subprocess
import time

from helpers import command

_PROGRAM = """
import os, signal, sys, time

place = sys.argv[1] + "/" + str(os.getpid())

def end(number, frame):
    time.sleep(2)  # As long as a step.
    open(place + ".saved", "w").close()
    sys.exit(75)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, signal.SIG_IGN)
open(place + ".started", "w").close()
while True:
    time.sleep(1)
"""


def test_interrupted_processes_may_finish_their_step(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    flags = ["--grace=0.1", f"--program={program}", f"--log_dir={tmp_path / 'logs'}"]
    launcher = subprocess.Popen(command("scripts/launch_local.py", *flags, "--", tmp_path))
    while len(list(tmp_path.glob("*.started"))) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.terminate()  # SIGINT may be ignored, where that starts in the background.
    assert launcher.wait(600) == 130
    assert len(list(tmp_path.glob("*.saved"))) == 2
