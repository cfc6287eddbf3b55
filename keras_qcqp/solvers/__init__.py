"""Solves a `Problem`: one budget (`search`) or a whole front of budgets (`path`)."""

from keras_qcqp.solvers.path import solve_path as solve_path
from keras_qcqp.solvers.search import solve as solve
