"""The soak: training continues while its processes are killed at random moments."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.chaos.evidence import Evidence, Taking
from jobs.chaos.faults import OF_STORE, Draw, Fault, Kind
from jobs.chaos.nodes import Nodes
from jobs.chaos.programs import Program, Server
from jobs.chaos.store import Answer, Store, blames_store
from jobs.chaos.training import STOPPED, TERMINATED, Training
from pipeline.io.console import duration, say, say_text
from pipeline.io.objects import Objects, StoreError
from pipeline.io.processes import send
from pipeline.run.journal import Journal
from pipeline.run.manifest import MANIFEST
from pipeline.tracking.sync_state import read_position

NODES = 2
_MOST_NODES = 3
_POLL_S = 0.2
# A fault is not survived if training takes longer than this to get further.
_GIVE_UP_S = 300.0
_STOP_S = 180.0
# Of the output of a driver that gave up.
_SHOWN_LETTERS = 3000
_ANSWERS = {
    Kind.STORE_REFUSING: Answer.REFUSED,
    Kind.STORE_FULL: Answer.FULL,
    Kind.STORE_SLOW: Answer.SLOW,
}


@dataclass
class Outage:
    """An outage of MLflow: the run then, and its journal's entries when the server was back."""

    fault: Fault
    folder: Path
    entries: int = 0
    since: float = 0.0
    delivery: Program | None = None

    @property
    def is_delivering(self) -> bool:
        """Whether `jobs.deliver` sends the entries, or has sent them."""
        return self.delivery is not None and not self.delivery.status()


class Soak:
    """Injects faults into training, and restarts it as a user would: by the same command."""

    def __init__(
        self,
        training: Training,
        nodes: Nodes,
        server: Server,
        evidence: Evidence,
        draws: Iterator[Draw],
        store: Store | None = None,
    ) -> None:
        self._training, self._nodes, self._server = training, nodes, server
        self._store = store
        self._evidence, self._draws = evidence, draws
        self.faults: list[Fault] = []
        self.exits: Counter[str] = Counter()
        """Number of drivers by how they ended."""
        self.delivered_s: list[float] = []
        """Seconds from each return of the server until it had all entries that had waited."""
        self.delivered_by_command = 0
        """Number of runs that ended before that and needed `jobs.deliver`."""
        self.steps: list[Taking] = []
        """Steps that took training further, in order."""
        self._scheduled: list[tuple[float, Callable[[], None]]] = []
        self._outage: Outage | None = None
        # The store's fault, and since when it answers as usual again.
        self._disturbance: Fault | None = None
        self._usual_since = 0.0
        self._is_stopping = False
        self._next = next(draws)

    def run(self, seconds: float) -> None:
        """Inject faults for `seconds`, wait until the last is survived, and stop training."""
        self._started = time.time()
        self._training.begin()
        while self._elapsed() < seconds:
            self._poll()
            if self._is_due():
                self._inject(self._next)
                self._next = next(self._draws)
        say(f"no more faults after {duration(seconds)}")
        while self._scheduled or self._is_open():
            self._poll()
        self._training.driver.ask_to_stop()
        self._ended(self._training.driver.wait(_STOP_S))
        self.steps += self._evidence.read_on()

    def _elapsed(self) -> float:
        return time.time() - self._started

    def _poll(self) -> None:
        """Read the traces, restart what has ended, and do what is due."""
        time.sleep(_POLL_S)
        before = self._evidence.furthest
        added = self._evidence.read_on()
        for fault in self.faults:
            if fault.recovered is None:
                fault.notice(added)
                if fault.lost_s is not None:
                    self._say(f"{fault.kind}: training got further after {fault.lost_s:.1f} s")
        for step in added:
            if step.position > before:
                self.steps.append(step)
                before = step.position
        self._restart()
        self._look_at_store()
        self._collect()
        for due, action in list(self._scheduled):
            if time.time() >= due:
                self._scheduled.remove((due, action))
                action()

    def _restart(self) -> None:
        """Start the next run, or the same command again, when the driver has ended."""
        status = self._training.driver.status()
        if status is None:
            return
        self._ended(status)
        is_expected = self._is_stopping and status in (STOPPED, TERMINATED)
        if self._disturbance is not None:
            # No run starts without its store, or ends.
            is_expected |= not self._usual_since or blames_store(self._training.output)
        self._is_stopping = False
        if status == 0:
            self._training.begin()
            return
        if not is_expected:
            for fault in self.faults:
                fault.is_given_up |= fault.recovered is None
            output = self._training.output[-_SHOWN_LETTERS:]
            self._say(f"the driver gave up with status {status}:\n{output}\n(end of its output)")
        self._training.start_driver()

    def _ended(self, status: int) -> None:
        how = f"after SIGTERM, status {status}" if self._is_stopping else f"status {status}"
        self.exits[how] += 1

    def _is_open(self) -> bool:
        """Whether a fault may still be survived."""
        now = time.time()
        return any(
            not (fault.is_survived or fault.is_given_up) and now - fault.time < _GIVE_UP_S
            for fault in self.faults
        )

    def _is_due(self) -> bool:
        """Whether the next fault is due; the first one waits for the first step.

        A fault of the store waits until the former is settled.
        """
        if self._next.kind in OF_STORE and self._disturbance is not None:
            return False
        if not self.faults:
            return bool(self.steps) and time.time() - self.steps[0].time >= self._next.wait_s
        last = self.faults[-1]
        if not self._next.is_hasty and time.time() - last.time > _GIVE_UP_S:
            return True
        since = last.time if self._next.is_hasty else last.recovered
        return since is not None and time.time() - since >= self._next.wait_s

    def _inject(self, draw: Draw) -> None:
        """Inject a fault if there is anything to hit; otherwise skip it."""
        fault = Fault(
            kind=draw.kind, time=time.time(), before=self._evidence.furthest, is_fatal=True
        )
        strike = {
            Kind.WORKER: self._kill_worker,
            Kind.DRIVER: self._kill_driver,
            Kind.STOP: self._stop_driver,
            Kind.NODE: self._lose_node,
            Kind.JOIN: self._add_node,
            Kind.SERVER: self._kill_server,
            **dict.fromkeys(OF_STORE, self._disturb_store),
        }[draw.kind]
        if strike(draw, fault):
            self.faults.append(fault)
            haste = ", in haste" if draw.is_hasty else ""
            run, epoch, step = fault.before
            self._say(
                f"fault {len(self.faults)}: {fault.kind}{haste}, at {run or 'the start'}, "
                f"epoch {epoch + 1}, step {step}"
            )

    def _kill_worker(self, draw: Draw, fault: Fault) -> bool:
        alive = self._nodes.workers()
        ranks = [rank for rank in self._evidence.ranks if rank.pid in alive]
        if ranks:
            send([ranks[int(draw.choice * len(ranks))].pid], signal.SIGKILL)
        return bool(ranks)

    def _kill_driver(self, draw: Draw, fault: Fault) -> bool:
        self._training.driver.kill()
        # It starts again on a machine that has never seen the run, if that lies in a bucket.
        self._training.lose_disk()
        self._is_stopping = False
        self.exits["killed"] += 1
        self._training.start_driver()
        return True

    def _stop_driver(self, draw: Draw, fault: Fault) -> bool:
        if self._is_stopping:
            return False
        self._training.driver.ask_to_stop()
        self._is_stopping = True
        return True

    def _lose_node(self, draw: Draw, fault: Fault) -> bool:
        if len(self._nodes) < NODES:
            return False
        ranks = {rank.pid for rank in self._evidence.ranks}
        fault.is_fatal = not ranks.isdisjoint(self._nodes.remove(draw.choice))
        if len(self._nodes) < NODES:
            self._scheduled.append((time.time() + draw.away_s, self._nodes.add))
        return True

    def _add_node(self, draw: Draw, fault: Fault) -> bool:
        if len(self._nodes) == _MOST_NODES:
            return False
        self._nodes.add()
        fault.is_fatal = False
        return True

    def _kill_server(self, draw: Draw, fault: Fault) -> bool:
        if self._outage is not None:
            return False
        self._server.kill()
        fault.is_fatal = fault.is_settled = False
        self._scheduled.append((time.time() + draw.away_s, self._server.start))
        self._outage = Outage(fault, self._training.folder)
        return True

    def _disturb_store(self, draw: Draw, fault: Fault) -> bool:
        assert self._store is not None, "faults of a store are drawn for a soak that has one"
        if draw.kind is Kind.STORE_KILLED:
            self._store.kill()
        else:
            self._store.answer(_ANSWERS[draw.kind])
        fault.is_fatal = fault.is_settled = False
        self._disturbance, self._usual_since = fault, 0.0
        self._scheduled.append((time.time() + draw.away_s, self._calm_store))
        return True

    def _calm_store(self) -> None:
        assert self._store is not None
        self._store.answer(Answer.USUAL)
        if not self._store.is_running:
            self._store.start()
        self._usual_since = time.time()

    def _look_at_store(self) -> None:
        """Check whether the run has written to the store since it answers as usual."""
        if self._disturbance is None or not self._usual_since:
            return
        with suppress(StoreError):
            written = Objects(self._training.location).head(MANIFEST).modified.timestamp()
            if written > self._usual_since:
                self._disturbance.is_settled, self._disturbance = True, None

    def _collect(self) -> None:
        """Check whether the server has all entries; deliver those of a run that has ended."""
        outage = self._outage
        if outage is None or not (outage.entries or self._server.answers()):
            return
        if not outage.entries:
            outage.entries, outage.since = len(Journal(outage.folder).entries()), time.time()
        position = read_position(outage.folder, self._server.uri)
        if position.seq >= outage.entries and not any(
            seq <= outage.entries for seq in position.later
        ):
            outage.fault.is_settled, self._outage = True, None
            self.delivered_s.append(time.time() - outage.since)
            self._say(f"MLflow was complete {self.delivered_s[-1]:.1f} s after it was back")
        elif outage.folder != self._training.folder and not outage.is_delivering:
            # As the run advised when it ended.
            outage.delivery = self._training.deliver(outage.folder)
            self.delivered_by_command += 1

    def _say(self, line: str) -> None:
        say_text(f"[{self._elapsed():6.1f} s] {line}")
