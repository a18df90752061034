"""Runs parts one after the other, each in its own process: a crash, a poisoned device or a hang ends one and hides no other."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import paddle_pgonas
from paddle_pgonas.gpu_check import hours
from paddle_pgonas.gpu_check.parts import FIRST, PARTS, Part
from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.runtime import command_line

LOG_KEPT = 4000
"""Characters of a part's output that the report keeps, from its end."""

Result = dict[str, Any]
"""Keys name, status (passed, failed, not applicable), line, seconds, details, log."""


def check(device: str, report: str | Path, parts: Sequence[Part] = PARTS, first: Part = FIRST) -> bool:
    """Run the parts on ``auto``, ``cpu`` or ``gpu``, print a line each, the hours and a verdict; whether none failed.

    The report is written as JSON after every part, so that it is there even if this process is killed.
    """
    started, results, facts = time.time(), list[Result](), dict[str, Any]()
    width = max(len(part.name) for part in [first, *parts])

    def write(verdict: str) -> None:
        write_json(report, {
            "report": "check_gpu", "version": 1, "verdict": verdict, "command": command_line(), "system": platform.platform(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
            "seconds": round(time.time() - started, 1), "hours": hours.table(passed(results)), "parts": results,
        })  # fmt: skip

    write("not finished")
    for number, part in enumerate([first, *parts], start=1):
        print(f"[{number:2}/{len(parts) + 1}] {part.name:{width}}  ", end="", flush=True)
        results.append(run(part, facts.get("device", device), facts, passed(results)))
        if part is first:
            facts = results[0]["details"]
        print("{status:14} {seconds:6.1f} s  {line}".format(**results[-1]), flush=True)
        write("not finished")
    for line in hours.printed(passed(results)):
        print(line)
    write(verdict(results, facts))
    print(f"{verdict(results, facts)}; report: {report}")
    return all(result["status"] != "failed" for result in results)


def passed(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Details of the parts that passed, by name."""
    return {result["name"]: result["details"] for result in results if result["status"] == "passed"}


def verdict(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """The one line: what failed, how much passed, on which device."""
    names = {status: [result["name"] for result in results if result["status"] == status] for status in ("passed", "failed")}
    others = len(results) - sum(map(len, names.values()))
    count = f"{len(names['passed'])} of {len(results)} parts passed, {others} not applicable"
    if names["failed"]:
        return f"FAILED: {', '.join(names['failed'])}; {count}"
    where = "the CPU; this says nothing about a GPU" if facts.get("device") == "cpu" else facts.get("name", "an unknown device")
    return f"PASSED: {count}, on {where}"


def run(part: Part, device: str, facts: Mapping[str, Any], earlier: Mapping[str, Any]) -> Result:
    """One part's result; ``not applicable`` if the device lacks what it needs."""
    started = time.time()
    if lacking := part.lacks(facts):
        status, line, log, details = "not applicable", lacking, "", dict[str, Any]()
    else:
        status, line, log, details = _in_own_process(part, device, earlier)
    seconds = round(time.time() - started, 1)
    return {"name": part.name, "status": status, "line": line, "seconds": seconds, "details": details, "log": log}


def _in_own_process(part: Part, device: str, earlier: Mapping[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    """Status, line, the end of the output and details of a part that can run."""
    sizes = (part.cpu if device == "cpu" else part.gpu) or {}
    with tempfile.TemporaryDirectory(prefix="check_gpu-") as name:
        folder = Path(name)
        job = {"function": part.function, "device": device.partition(":")[0], "amp": part.amp, "sizes": sizes, "earlier": earlier}
        write_json(folder / "job.json", job)
        ended = _wait(part, folder)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")[-LOG_KEPT:]
        if (folder / "answer.json").exists():
            answer = read_json(folder / "answer.json", "answer")
            return answer["status"], answer["line"], log, answer["details"]
    last = (log.strip() or "no output").rpartition("\n")[2][:300]
    return "failed", f"{ended} without an answer; its last output: {last}", log, {}


def _wait(part: Part, folder: Path) -> str:
    """Run a part's process to its end or its time limit, then kill what it left behind; how it ended, in words."""
    path = os.pathsep.join(filter(None, [str(Path(paddle_pgonas.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "paddle_pgonas.gpu_check.child", str(folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": path, **part.environment}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            return f"killed after {part.limit} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
