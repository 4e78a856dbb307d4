"""Workers that are pretended, for tests of what gives them trials."""

import types

import sweeps

PLAIN = {"hyperband": False, "method": "random"}


class PretendedWorker:
    """A worker that answers at once; `behave` makes its messages from the trial it is sent, or says that it dies."""

    def __init__(self, behave):
        self.behave, self.sent, self.said = behave, [], []
        self.dead, self.hung, self.ended = "", "", False
        self.process = types.SimpleNamespace(returncode=None, poll=lambda: self.process.returncode)

    def send(self, **message):
        self.sent.append(message)
        self.said += self.behave(self, message) or []

    def messages(self):
        said, self.said = self.said, []
        return said

    def death(self):
        return self.dead

    def hang(self):
        return self.hung


class PretendedPool:
    def __init__(self, behave, *, count=1):
        self.behave, self.workers, self.all = behave, [None] * count, []
        self.export_all = False
        self.meanwhile = lambda: None  # happens while the supervisor waits

    def get(self, place):
        if self.workers[place] is None:
            self.workers[place] = PretendedWorker(self.behave)
            self.all.append(self.workers[place])
        return self.workers[place]

    def drop(self, place):
        self.workers[place] = None

    def wait(self, seconds):
        self.meanwhile()


def trained(trial, *, epochs=6):
    """What a worker says of a trial that it trains to its end, and leaves in its folder."""
    job = types.SimpleNamespace(config=trial["config"])
    rows = [sweeps.row(job, epoch) for epoch in range(1, epochs + 1)]
    metrics = {"val_acc": rows[-1]["val_acc"], "val_loss": 0.5, "epochs": epochs, "best_epoch": epochs}
    return [{"epochs": rows}, {"done": metrics | {"stopped_by": "max_epochs", "seconds_total": 1.0}}]


def works(worker, message):
    """Everything succeeds."""
    if "prepare" in message:
        return [{"ready": True}]
    return trained(message["trial"]) if "trial" in message else []
