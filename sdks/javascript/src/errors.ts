// Errors of the client, and the problems (RFC 9457) of the API.

const PREFIX = 'urn:tollgate:problem:';

/** Base of all errors of this package. */
export class TollgateError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** No response was received. The request may have taken effect; `cause` is the error of the connection. */
export class NoResponseError extends TollgateError {}

/** A response is not one of the API's, for example the page of a proxy. */
export class InvalidResponseError extends TollgateError {}

/** A usage event, record or adjustment that cannot be counted. */
export interface Defect {
  /** JSON pointer (RFC 6901) into the body of the request. */
  pointer: string;
  reason: string;
}

/** A problem (RFC 9457). Its subclasses are the types that clients handle; other types have this class. */
export class ProblemError extends TollgateError {
  /** URI of the problem's type, such as `urn:tollgate:problem:not-found`. */
  readonly type: string;
  readonly title: string;
  /** Status of the response. */
  readonly status: number;
  readonly detail: string | undefined;
  /** Request id, under which the log has more. */
  readonly requestId: string | undefined;
  /** Part of the body or query at fault. */
  readonly field: string | undefined;
  /** Seconds after which a retry can succeed, if the response says so. */
  readonly retryAfterS: number | undefined;
  /** All members of the problem, with those that only some types have. */
  readonly members: Readonly<Record<string, unknown>>;

  constructor(status: number, members: Readonly<Record<string, unknown>>, retryAfterS?: number) {
    const text = (name: string) => (typeof members[name] === 'string' ? members[name] : undefined);
    const title = text('title') ?? 'Unexpected status';
    const [detail, requestId] = [text('detail'), text('request_id')];
    super(`${status} ${title}${detail ? `: ${detail}` : ''}${requestId ? ` (request ${requestId})` : ''}`);
    this.type = text('type') ?? 'about:blank';
    this.title = title;
    this.status = status;
    this.detail = detail;
    this.requestId = requestId;
    this.field = text('field');
    this.retryAfterS = retryAfterS;
    this.members = members;
  }

  /** Returns a member that is a text. */
  protected text(name: string): string | undefined {
    const value = this.members[name];
    return typeof value === 'string' ? value : undefined;
  }

  /** Returns a member that is a list; if there is none, an empty one. */
  protected list(name: string): unknown[] {
    const value = this.members[name];
    return Array.isArray(value) ? value : [];
  }
}

/** The body, the query or a header field is invalid; `field` names it. */
export class BadRequestError extends ProblemError {}

/** The key is missing, unknown, expired, revoked or suspended. */
export class UnauthorizedError extends ProblemError {}

/** The key is valid, but for other requests. */
export class ForbiddenError extends ProblemError {}

/** The request needs a key with the role `manage`. */
export class InsufficientRoleError extends ForbiddenError {}

/** The resource does not exist. */
export class NotFoundError extends ProblemError {}

/** The resource's state does not allow the request. */
export class ConflictError extends ProblemError {
  /** JSON pointers to the usage events whose identity another event has; all others were counted. */
  get conflicts(): string[] {
    return this.list('conflicts').filter(item => typeof item === 'string');
  }
}

/** The body has more than 1 MB. */
export class BodyTooLargeError extends ProblemError {}

/** The request is valid in form, but cannot be carried out. */
export class UnprocessableError extends ProblemError {
  /** Usage that cannot be counted. If there is any, nothing of the request was counted. */
  get defects(): Defect[] {
    return this.list('defects').map(item => {
      const {pointer, reason} = item as Partial<Defect>;
      return {pointer: String(pointer ?? ''), reason: String(reason ?? '')};
    });
  }
}

/** The key's calls of the hour, or the customer's of the month, are used up. */
export class LimitError extends ProblemError {
  /** Calls allowed in the window. */
  get limit(): number | undefined {
    const limit = this.members['limit'];
    return typeof limit === 'number' ? limit : undefined;
  }

  /** `hour` or `month`. */
  get window(): string | undefined {
    return this.text('window');
  }

  /** Start of the next window (RFC 3339). */
  get resetsAt(): string | undefined {
    return this.text('resets_at');
  }
}

/** The key's limit for the hour is exhausted. */
export class RateLimitedError extends LimitError {}

/** The customer's quota for the month is exhausted. */
export class QuotaExceededError extends LimitError {
  /** Page to subscribe to a larger plan, if the operator has one. */
  get upgradeUrl(): string | undefined {
    return this.text('upgrade_url');
  }
}

/** The customer is suspended. */
export class CustomerSuspendedError extends ProblemError {}

/** The gateway's limit for all callers together is exceeded. */
export class ThrottledError extends ProblemError {}

/** The service is temporarily unavailable. The request may have taken effect. */
export class UnavailableError extends ProblemError {}

/** The request needs Stripe, which the operator has not configured. */
export class PaymentsNotConfiguredError extends ProblemError {}

/** @internal */
export const CLASSES: Readonly<Record<string, typeof ProblemError>> = {
  'bad-request': BadRequestError,
  'unauthorized': UnauthorizedError,
  'forbidden': ForbiddenError,
  'insufficient-role': InsufficientRoleError,
  'not-found': NotFoundError,
  'conflict': ConflictError,
  'body-too-large': BodyTooLargeError,
  'unprocessable': UnprocessableError,
  'rate-limited': RateLimitedError,
  'quota-exceeded': QuotaExceededError,
  'customer-suspended': CustomerSuspendedError,
  'throttled': ThrottledError,
  'temporarily-unavailable': UnavailableError,
  'payments-not-configured': PaymentsNotConfiguredError,
};

/**
 * Returns the problem of a response. A body of another form, such as a proxy's, leaves it without members.
 * @internal
 */
export function problemOf(status: number, body: unknown, retryAfterS: number | undefined): ProblemError {
  const isObject = typeof body === 'object' && body !== null && !Array.isArray(body);
  const members = isObject ? (body as Record<string, unknown>) : {};
  const type = members['type'];
  const name = typeof type === 'string' && type.startsWith(PREFIX) ? type.slice(PREFIX.length) : '';
  const Problem = Object.hasOwn(CLASSES, name) ? CLASSES[name]! : ProblemError;
  return new Problem(status, members, retryAfterS);
}

/**
 * Returns whether the same request can succeed later: after a 429 only if the response names the time.
 * @internal
 */
export function mayPass(error: unknown): boolean {
  if (!(error instanceof ProblemError)) return error instanceof NoResponseError;
  if (error.status === 429) return error.retryAfterS !== undefined;
  return [502, 503, 504].includes(error.status) && !(error instanceof PaymentsNotConfiguredError);
}
