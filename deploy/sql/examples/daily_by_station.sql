-- Daily minimum, mean and maximum temperature of the three weather stations that `make demo` replays: the last week.
SELECT
    transform(device_id, [
        toUUID('ec8da1b2-a4cb-52a1-a18e-fc728c6c1420'),
        toUUID('6b5c3bb4-4617-58d5-9364-82b133db4e4b'),
        toUUID('519e41cc-46c6-5bd2-8d76-37c3f6c99899')
    ], ['EWR', 'JFK', 'LGA'], '?') AS station,
    toDate(timestamp) AS day,
    count() AS readings,
    round(min(temperature), 1) AS min_celsius,
    round(avg(temperature), 1) AS mean_celsius,
    round(max(temperature), 1) AS max_celsius
FROM penstock.readings_unique
WHERE device_id IN (
        toUUID('ec8da1b2-a4cb-52a1-a18e-fc728c6c1420'),
        toUUID('6b5c3bb4-4617-58d5-9364-82b133db4e4b'),
        toUUID('519e41cc-46c6-5bd2-8d76-37c3f6c99899')
    )
    AND timestamp >= today() - 6
GROUP BY station, day
ORDER BY station, day
FORMAT PrettyCompactNoEscapes
