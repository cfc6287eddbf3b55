"""A network with its coupled channels as one self-contained SVG; no other program is needed to make it."""

from keras_qcqp.drawing.picture import Drawing as Drawing
from keras_qcqp.drawing.picture import plot as plot
