#!/bin/bash
# A box that transcodes for others.
DATA=/var/lib/livepeer
ORCHESTRATORS="orch.example:8935,spare.example"
mkdir -p $DATA
cd $DATA
exec ./livepeer -transcoder \
  -nvidia all \
  -orchAddr "$ORCHESTRATORS" -orchSecret 'it'\''s "ours"' \
  -maxSessions 12 -hevcDecoding=false \
  -dataDir "$DATA" -v 4 >>livepeer.log 2>&1
