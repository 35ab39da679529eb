"""Building blocks of training: parameter groups, the loop of optimiser steps, the run folder."""
