"""A run on disk: the files that tuning makes, written so that neither a full disk nor a kill loses any.

A run is a directory:

===================  ============================================================
``settings.json``    what the run was started with; ``--resume`` compares it
``trials.jsonl``     the journal: one line per finished step, flushed as it ends
``plan.json``        the plan that won
``other_plan.json``  of a PyTorch module: the plan for the representation
                     that is not served
``model.onnx``       the model to serve, with ``model.onnx.data`` where its
                     weights are not in one piece with it; or ``model.pt`` for a
                     PyTorch module
``model.xml``        the same for OpenVINO, with ``model.bin``, where it serves
``best.onnx``        the closest model, where the budget could not be reached,
                     or ``best.pt``, with its plan in ``best_plan.json``
``report.txt``       the report for people
``run.json``         the record that the report is made from; written last
===================  ============================================================
"""

from fewbits.files import Content, write_file, write_files
from fewbits.store.journal import Journal
from fewbits.store.run import Run, RunFile, Settings, finished_steps, read_record

__all__ = [
    "Content",
    "Journal",
    "Run",
    "RunFile",
    "Settings",
    "finished_steps",
    "read_record",
    "write_file",
    "write_files",
]
