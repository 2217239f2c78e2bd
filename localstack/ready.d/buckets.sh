#!/bin/sh
# LocalStack runs this when S3 answers.
set -eu
for bucket in backups; do
  awslocal s3api head-bucket --bucket "$bucket" 2>/dev/null || awslocal s3 mb "s3://$bucket"
done
