"""Children that share a list of jobs: every answer comes, and a death is noticed."""

import io
import json
import sys

import pytest

from tidemill.deploy.reprocess.worker_pool import Job, JobResult, answers, serve
from tidemill.errors import LakeError, RequestError

DOUBLE = """
import sys
from tidemill.deploy.reprocess.worker_pool import serve
serve(lambda job: {"twice": 2 * job["n"]}, sys.stdin, sys.stdout)
"""


def test_every_job_is_answered_once_whoever_does_it() -> None:
    """More jobs than children, in no order."""
    jobs = [{"n": number} for number in range(20)]
    found = answers([sys.executable, "-c", DOUBLE], jobs, processes=3, env={})
    assert sorted(int(str(answer["twice"])) for answer in found) == [2 * n for n in range(20)]


def test_no_jobs_need_no_children() -> None:
    """A backfill that is done already starts nothing."""
    assert list(answers(["/no/such/program"], [], processes=2, env={})) == []


def test_a_child_that_dies_is_noticed() -> None:
    """Short of memory, the kernel kills children; the parent has to say what to do."""
    command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(9)"]
    with pytest.raises(LakeError, match="status 9") as caught:
        list(answers(command, [{"slice": 0}, {"slice": 1}], processes=2, env={}))
    assert "fewer processes" in caught.value.hint


def test_an_error_for_people_is_told_and_the_next_job_done() -> None:
    """One job that is refused says nothing about the others."""

    def work(job: Job) -> JobResult:
        if job["n"] == 1:
            raise RequestError("one is not served", hint="ask for two")
        return {"n": job["n"]}

    out = io.StringIO()
    serve(work, [json.dumps({"n": 1}), json.dumps({"n": 2})], out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"what": "one is not served", "hint": "ask for two"},
        {"done": {"n": 2}},
    ]
