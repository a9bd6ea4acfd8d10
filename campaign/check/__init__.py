"""Whether a machine, a Label Studio and a campaign are fit for work: each thing is ok, wrong or unknown."""
