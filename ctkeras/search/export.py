"""A copy of a storage's searches as a SQLite file, which optuna-dashboard opens."""

import collections
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from sqlalchemy.orm import Session

from ctkeras.errors import UserError
from ctkeras.runtime import files
from ctkeras.search.storage import address, lock_file, open_storage


def export(source: sqlalchemy.URL, file: Path) -> int:
    """Copies the searches of a storage into a new SQLite file. Returns the number of searches.

    Args:
        source: from storage.address.
        file: the new file.

    Raises:
        UserError: the file exists already, or the storage cannot be used.
    """
    if file.exists():
        raise UserError(f"{file} exists already; remove it, or name another file")
    opened = open_storage(source, create=False)
    try:
        with files.atomic(file) as partial:
            target = open_storage(address(str(partial), ""))
            try:
                studies = opened.trials.get_all_studies()
                for study in studies:
                    _copy_study(study, opened.trials, target.trials, target.engine)
            finally:
                target.close()
                lock_file(partial).unlink(missing_ok=True)
    finally:
        opened.close()
    return len(studies)


def _copy_study(
    study: Any, source: optuna.storages.BaseStorage, target: optuna.storages.BaseStorage, engine: Any
) -> None:
    """Copies a study as optuna.copy_study does, but all trials in one transaction: that one has several per trial."""
    identity = target.create_new_study(study.directions, study.study_name)
    for key, value in study.system_attrs.items():
        target.set_study_system_attr(identity, key, value)
    for key, value in study.user_attrs.items():
        target.set_study_user_attr(identity, key, value)
    with Session(engine) as session, session.begin():
        first = (session.query(sqlalchemy.func.max(models.TrialModel.trial_id)).scalar() or 0) + 1
        rows: dict[Any, list[dict[str, Any]]] = collections.defaultdict(list)  # by table
        for number, trial in enumerate(source.get_all_trials(study._study_id, deepcopy=False)):
            session.add(_trial(trial, number, trial_id=first + number, study_id=identity))
            for table, row in _rows(trial):
                rows[table].append({"trial_id": first + number, **row})
        session.flush()  # the other rows refer to the trials
        for table, content in rows.items():
            session.execute(sqlalchemy.insert(table), content)


def _trial(trial: optuna.trial.FrozenTrial, number: int, *, trial_id: int, study_id: int) -> Any:
    """A trial in Optuna's table of trials.

    Args:
        trial: to be copied.
        number: of the copy, from 0.
        trial_id: of the copy.
        study_id: of the copy's study.
    """
    return models.TrialModel(
        trial_id=trial_id,
        study_id=study_id,
        number=number,
        state=trial.state,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
    )


def _rows(trial: optuna.trial.FrozenTrial) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A trial's rows in Optuna's other tables: each table's class, and the row without the trial's number."""
    values: Sequence[float] = trial.values or ()
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        yield models.TrialValueModel, {"objective": objective, "value": stored, "value_type": kind}
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        stored, text = distribution.to_internal_repr(value), distribution_to_json(distribution)
        yield models.TrialParamModel, {"param_name": name, "param_value": stored, "distribution_json": text}
    for key, value in trial.user_attrs.items():
        yield models.TrialUserAttributeModel, {"key": key, "value_json": json.dumps(value)}
    for key, value in trial.system_attrs.items():
        yield models.TrialSystemAttributeModel, {"key": key, "value_json": json.dumps(value)}
    for step, value in trial.intermediate_values.items():
        stored, finite = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        named = {"step": step, "intermediate_value": stored, "intermediate_value_type": finite}
        yield models.TrialIntermediateValueModel, named
