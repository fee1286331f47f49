-- name: due_to_erase
SELECT document_id
  FROM document
 WHERE tenant_id = %(tenant_id)s AND forgotten_at IS NOT NULL AND erased_at IS NULL
 ORDER BY document_id
 LIMIT %(most)s;

-- name: versions_of
-- All that documents are, were, or are published as.
SELECT version_id FROM document
 WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s) AND version_id IS NOT NULL
 UNION
SELECT version_id FROM published WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s)
 UNION
SELECT version_id FROM left_version WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s)
 ORDER BY version_id;

-- name: mark_erased
-- The content's hash stays, so that the document is known, and stays forgotten, when it is moved.
UPDATE document SET erased_at = now(), version_id = NULL, pending = NULL
 WHERE tenant_id = %(tenant_id)s AND document_id = ANY(%(document_ids)s) AND forgotten_at IS NOT NULL;

-- name: orphaned
-- Versions that no document holds and no generation publishes. A document that is removed holds nothing, and one that was
-- such a version once does not either; but unless `left_lately`, its days must be over.
SELECT v.version_id
  FROM version v
 WHERE v.tenant_id = %(tenant_id)s
   AND v.version_id = ANY(%(version_ids)s)
   AND NOT EXISTS (SELECT 1 FROM document d
                    WHERE d.tenant_id = %(tenant_id)s AND d.version_id = v.version_id AND d.removed_at IS NULL)
   AND NOT EXISTS (SELECT 1 FROM published p WHERE p.tenant_id = %(tenant_id)s AND p.version_id = v.version_id)
   AND (%(left_lately)s
        OR NOT EXISTS (SELECT 1 FROM left_version l
                        WHERE l.tenant_id = %(tenant_id)s AND l.version_id = v.version_id))
 ORDER BY v.version_id;

-- name: texts_of_versions
SELECT DISTINCT text_hash FROM chunk
 WHERE tenant_id = %(tenant_id)s AND version_id = ANY(%(version_ids)s)
 ORDER BY text_hash;

-- name: delete_versions
DELETE FROM version WHERE tenant_id = %(tenant_id)s AND version_id = ANY(%(version_ids)s);

-- name: delete_orphaned_vectors
DELETE FROM embedding e
 WHERE e.tenant_id = %(tenant_id)s
   AND e.text_hash = ANY(%(text_hashes)s)
   AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = e.text_hash);

-- name: clear_pointers
-- Of removed documents; should one come back, it is read again.
UPDATE document SET version_id = NULL WHERE tenant_id = %(tenant_id)s AND version_id = ANY(%(version_ids)s);

-- name: days_ago
SELECT now() - make_interval(secs => 86400 * %(days)s) AS moment;

-- name: due_to_prune
SELECT document_id, version_id
  FROM left_version
 WHERE tenant_id = %(tenant_id)s AND left_at < %(before)s
 ORDER BY left_at, document_id, version_id
 LIMIT %(most)s;

-- name: take_left
DELETE FROM left_version l
 USING unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[]) AS gone (document_id, version_id)
 WHERE l.tenant_id = %(tenant_id)s AND l.document_id = gone.document_id AND l.version_id = gone.version_id;

-- name: postpone
-- What a kept generation publishes is looked at again when it may have been left for as long once more. Of what a document
-- holds it is recorded anew when it leaves it.
INSERT INTO left_version (tenant_id, document_id, version_id)
SELECT %(tenant_id)s, kept.document_id, kept.version_id
  FROM unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[]) AS kept (document_id, version_id)
 WHERE EXISTS (SELECT 1 FROM published p WHERE p.tenant_id = %(tenant_id)s AND p.version_id = kept.version_id)
   AND NOT EXISTS (SELECT 1 FROM document d
                    WHERE d.tenant_id = %(tenant_id)s AND d.version_id = kept.version_id
                      AND d.document_id = kept.document_id AND d.removed_at IS NULL)
ON CONFLICT (tenant_id, document_id, version_id) DO NOTHING;

-- name: deleted_generations
-- The latest stays: its number must not be given again.
SELECT number
  FROM generation
 WHERE tenant_id = %(tenant_id)s
   AND state = 'deleted'
   AND retired_at < %(before)s
   AND number < (SELECT max(number) FROM generation WHERE tenant_id = %(tenant_id)s)
 ORDER BY number;

-- name: unused_makers
-- A generation's chunker and model, NULL where another one has the same.
SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM generation o
                              WHERE o.tenant_id = %(tenant_id)s AND o.number <> g.number AND o.chunker = g.chunker)
            THEN g.chunker END AS chunker,
       CASE WHEN NOT EXISTS (SELECT 1 FROM generation o
                              WHERE o.tenant_id = %(tenant_id)s AND o.number <> g.number AND o.model = g.model)
            THEN g.model END AS model
  FROM generation g
 WHERE g.tenant_id = %(tenant_id)s AND g.number = %(number)s;

-- name: delete_chunkings
-- Some of a chunker's, each with the texts that it gave.
WITH due AS (
    SELECT version_id FROM chunking
     WHERE tenant_id = %(tenant_id)s AND chunker = %(chunker)s
     ORDER BY version_id
     LIMIT %(most)s
), gone AS (
    DELETE FROM chunking k USING due
     WHERE k.tenant_id = %(tenant_id)s AND k.version_id = due.version_id AND k.chunker = %(chunker)s
    RETURNING k.version_id
)
SELECT gone.version_id,
       ARRAY(SELECT c.text_hash FROM chunk c
              WHERE c.tenant_id = %(tenant_id)s AND c.version_id = gone.version_id AND c.chunker = %(chunker)s)
           AS text_hashes
  FROM gone
 ORDER BY gone.version_id;

-- name: delete_vectors
DELETE FROM embedding e
 USING (SELECT text_hash FROM embedding
         WHERE tenant_id = %(tenant_id)s AND model = %(model)s
         ORDER BY text_hash
         LIMIT %(most)s) AS due
 WHERE e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = due.text_hash;

-- name: delete_refusals
DELETE FROM failure
 WHERE tenant_id = %(tenant_id)s
   AND (stage = 'embed' AND maker = %(model)s OR stage = 'publish' AND maker LIKE %(model)s || '/%%');
