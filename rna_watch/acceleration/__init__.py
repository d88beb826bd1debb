"""Regularized nonlinear acceleration as pure mathematics: no files, no clock, no logging."""
