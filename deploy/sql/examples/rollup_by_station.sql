-- The same days as daily_by_station.sql, from the rollup by hour.
SELECT
    transform(device_id, [
        toUUID('ec8da1b2-a4cb-52a1-a18e-fc728c6c1420'),
        toUUID('6b5c3bb4-4617-58d5-9364-82b133db4e4b'),
        toUUID('519e41cc-46c6-5bd2-8d76-37c3f6c99899')
    ], ['EWR', 'JFK', 'LGA'], '?') AS station,
    toDate(hour) AS day,
    sum(readings) AS readings,
    round(min(temperature_min), 1) AS min_celsius,
    round(sum(temperature_avg * temperature_count) / sum(temperature_count), 1) AS mean_celsius,
    round(max(temperature_max), 1) AS max_celsius
FROM penstock.by_hour
WHERE device_id IN (
        toUUID('ec8da1b2-a4cb-52a1-a18e-fc728c6c1420'),
        toUUID('6b5c3bb4-4617-58d5-9364-82b133db4e4b'),
        toUUID('519e41cc-46c6-5bd2-8d76-37c3f6c99899')
    )
    AND hour >= today() - 6
GROUP BY station, day
ORDER BY station, day
FORMAT PrettyCompactNoEscapes
