"""Stacked hourglass networks for human pose estimation, trained on Ray and recorded in MLflow."""
