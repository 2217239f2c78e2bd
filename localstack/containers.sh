#!/bin/sh
# Creates the containers of Azurite; AZURE_STORAGE_CONNECTION_STRING says where.
set -eu
for container in backups; do
  az storage container create --name "$container" --only-show-errors --output none
done
