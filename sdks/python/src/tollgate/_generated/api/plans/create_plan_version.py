from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.create_plan_version import CreatePlanVersion
from ...models.new_plan_version import NewPlanVersion
from ...types import UNSET, Response, Unset


def _get_kwargs(
    plan: str,
    *,
    body: CreatePlanVersion,
    cursor: str | Unset = UNSET,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    params: dict[str, Any] = {}

    params["cursor"] = cursor

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/admin/plans/{plan}/versions".format(
            plan=quote(str(plan), safe=""),
        ),
        "params": params,
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> NewPlanVersion | None:
    if response.status_code == 200:
        response_200 = NewPlanVersion.from_dict(response.json())

        return response_200

    if response.status_code == 201:
        response_201 = NewPlanVersion.from_dict(response.json())

        return response_201

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Response[NewPlanVersion]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    plan: str,
    *,
    client: AuthenticatedClient,
    body: CreatePlanVersion,
    cursor: str | Unset = UNSET,
) -> Response[NewPlanVersion]:
    """Adds a version to a plan, or lists the customers to whom it would apply.

    Args:
        plan (str): Id of a plan.
        cursor (str | Unset): Opaque position in one list. It is valid for that list only.
        body (CreatePlanVersion): Request to add a version to a plan.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[NewPlanVersion]
    """

    kwargs = _get_kwargs(
        plan=plan,
        body=body,
        cursor=cursor,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)
