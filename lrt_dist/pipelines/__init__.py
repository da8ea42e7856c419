"""One file a verb: each joins a plan, stages and a runtime. `lrt_dist.verbs` has them together."""
