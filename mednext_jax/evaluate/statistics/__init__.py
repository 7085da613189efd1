"""Statistics of a cohort: agreement, intervals, tests between tools."""
