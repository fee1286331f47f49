-- name: passages
-- The documents that contain each text, oldest first, at most `most` of them and how many there are. A document that
-- contains a text twice counts once, by its first place.
SELECT near.rank, c.*
  FROM unnest(%(text_hashes)s::bytea[]) WITH ORDINALITY AS near (text_hash, rank)
 CROSS JOIN LATERAL (
       SELECT place.*, count(*) OVER () AS documents
         FROM (SELECT DISTINCT ON (d.first_seen_at, d.document_id)
                      d.document_id, d.first_seen_at, d.uri, s.name AS source, v.title, c.version_id, c.ordinal,
                      c.start_char, c.end_char, c.headings, c.page, c.text, c.text_hash
                 FROM chunk c
                 JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s
                                 AND p.version_id = c.version_id
                 JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = p.document_id
                                AND d.removed_at IS NULL AND d.forgotten_at IS NULL
                 JOIN source s ON s.tenant_id = %(tenant_id)s AND s.source_id = d.source_id
                 JOIN version v ON v.tenant_id = %(tenant_id)s AND v.version_id = c.version_id
                WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = near.text_hash AND c.chunker = %(chunker)s
                ORDER BY d.first_seen_at, d.document_id, c.ordinal) AS place
        ORDER BY place.first_seen_at, place.document_id
        LIMIT %(most)s) AS c
 ORDER BY near.rank, c.first_seen_at, c.document_id;

-- name: gone
-- Asked outside the search's snapshot: what was removed or forgotten meanwhile.
SELECT document_id
  FROM document
 WHERE tenant_id = %(tenant_id)s
   AND document_id = ANY(%(document_ids)s)
   AND (removed_at IS NOT NULL OR forgotten_at IS NOT NULL)
 ORDER BY document_id;

-- name: page
-- An element is stored as [kind, start, end, level, page, header_end].
SELECT (element ->> 4)::integer AS page
  FROM version v
 CROSS JOIN LATERAL jsonb_array_elements(v.elements) AS element
 WHERE v.tenant_id = %(tenant_id)s
   AND v.version_id = %(version_id)s
   AND (element ->> 1)::integer <= %(position)s
 ORDER BY (element ->> 1)::integer DESC
 LIMIT 1;

-- name: document
SELECT document_id, source_id, uri, removed_at, forgotten_at
  FROM document
 WHERE tenant_id = %(tenant_id)s
   AND (uri_key = ANY(%(uri_keys)s::bytea[]) OR document_id = %(document_id)s::uuid)
 ORDER BY removed_at DESC NULLS FIRST, document_id
 LIMIT 1;

-- name: forget
UPDATE document
   SET forgotten_at = now(), erased_at = NULL
 WHERE tenant_id = %(tenant_id)s AND document_id = %(document_id)s AND forgotten_at IS NULL;

-- name: restore
UPDATE document
   SET forgotten_at = NULL, erased_at = NULL, content_hash = NULL,
       pending = CASE WHEN removed_at IS NULL THEN 'content' END
 WHERE tenant_id = %(tenant_id)s AND document_id = %(document_id)s AND forgotten_at IS NOT NULL;

-- name: retry
-- How often reading or parsing has failed is kept: if it fails again, the next attempt is as far away as it would have been.
WITH due AS (
    SELECT d.document_id, d.content_hash, d.kind, d.version_id
      FROM document d
      JOIN document_failure f ON f.tenant_id = %(tenant_id)s AND f.document_id = d.document_id
     WHERE d.tenant_id = %(tenant_id)s
       AND (%(document_id)s::uuid IS NULL OR d.document_id = %(document_id)s)
), released AS (
    UPDATE failure f
       SET permanent = false, next_at = now()
      FROM due
     WHERE f.tenant_id = %(tenant_id)s
       AND (f.stage = 'read' AND f.key = due.document_id::text
            OR f.stage = 'parse' AND f.key = encode(due.content_hash, 'hex') || ':' || due.kind)
)
SELECT document_id, version_id FROM due ORDER BY document_id;

-- name: offer
-- What the model has refused of these versions, and that their documents were held back for it.
WITH released AS (
    DELETE FROM failure WHERE tenant_id = %(tenant_id)s AND stage = 'publish' AND key = ANY(%(version_ids)s::text[])
)
SELECT offer_again(%(tenant_id)s, ARRAY(SELECT encode(c.text_hash, 'hex') FROM chunk c
                                         WHERE c.tenant_id = %(tenant_id)s
                                           AND c.version_id = ANY(%(version_ids)s::uuid[])));

-- name: documents
-- state: what is true of the document, the most telling first.
SELECT *
  FROM (SELECT d.document_id,
               s.name AS source,
               d.uri,
               v.title,
               CASE WHEN d.forgotten_at IS NOT NULL THEN 'forgotten'
                    WHEN d.removed_at IS NOT NULL THEN 'removed'
                    WHEN f.reason IS NOT NULL THEN 'quarantined'
                    WHEN d.pending IS NOT NULL OR p.document_id IS NULL THEN 'pending'
                    ELSE 'live' END AS state,
               CASE WHEN d.forgotten_at IS NOT NULL THEN 'It was forgotten; `minirag documents restore` takes that back.'
                    WHEN f.reason IS NOT NULL THEN f.reason
                    WHEN p.chunks = 0 THEN 'The document is empty.' END AS reason,
               encode(coalesce(d.content_hash, v.content_hash), 'hex') AS content_hash,
               coalesce(p.chunks, 0) AS chunks,
               d.size_bytes AS bytes,
               f.code,
               f.permanent,
               f.attempts,
               f.first_at AS first_failed_at,
               f.last_at AS last_failed_at,
               f.next_at AS next_attempt_at
          FROM document d
          JOIN source s ON s.tenant_id = %(tenant_id)s AND s.source_id = d.source_id
          LEFT JOIN generation g ON g.tenant_id = %(tenant_id)s AND g.state = 'live'
          LEFT JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = g.number
                               AND p.document_id = d.document_id
          LEFT JOIN version v ON v.tenant_id = %(tenant_id)s AND v.version_id = d.version_id
          LEFT JOIN document_failure f ON f.tenant_id = %(tenant_id)s AND f.document_id = d.document_id
         WHERE d.tenant_id = %(tenant_id)s) AS listed
 WHERE (%(state)s::text IS NULL OR state = %(state)s)
 ORDER BY uri, document_id;
